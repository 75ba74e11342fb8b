// Suggested configurations: they fit, and more memory never costs more work.
#include "plan/training_suggestion.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "support/paths.h"

namespace weft {
namespace {

OpenedModel open_shape(const std::string& name) {
  return open_model({.path = source_path("configs/models/") + name + ".json", .family = {}, .compat = {}});
}

SuggestionRequest request(int num_devices, double gigabytes) {
  SuggestionRequest result;
  result.setup.sequence_length = 2048;
  result.num_devices = num_devices;
  result.device_bytes = static_cast<int64_t>(gigabytes * 1e9);
  result.batch_rows = 16;
  return result;
}

/// Smaller is preferred.
auto cost(const TrainingSetup& setup) {
  return std::tuple(static_cast<int>(setup.engine.recompute),
                    -setup.engine.recompute_every,
                    std::max(1, setup.engine.zero_stage),  // 0 and 1 are the same work
                    setup.tensor,
                    setup.engine.zero_stage,
                    -setup.micro_batch_rows);
}

TEST(TrainingSuggestion, FitsAndCoversTheBatch) {
  OpenedModel opened = open_shape("qwen2-1.5b");
  for (double gigabytes : {10.0, 16.0, 24.0, 48.0, 80.0}) {
    auto suggestion = suggest_training(opened, request(4, gigabytes));
    ASSERT_TRUE(suggestion.has_value()) << gigabytes;
    const TrainingSetup& setup = suggestion->setup;
    EXPECT_LE(static_cast<double>(suggestion->memory.peak_total), gigabytes * 1e9);
    EXPECT_EQ(setup.data * setup.tensor, 4);
    EXPECT_EQ(setup.data * setup.micro_batch_rows * setup.num_micro_batches, 16);
    TrainingPlanner planner(opened, std::nullopt, setup.tensor);
    EXPECT_EQ(planner.plan(setup).peak_total, suggestion->memory.peak_total);
  }
}

TEST(TrainingSuggestion, MoreMemoryNeverCostsMoreWork) {
  OpenedModel opened = open_shape("smollm2-135m");
  std::optional<TrainingSuggestion> last;
  for (double gigabytes = 0.5; gigabytes < 60; gigabytes *= 1.3) {
    auto suggestion = suggest_training(opened, request(2, gigabytes));
    EXPECT_FALSE(last && !suggestion) << gigabytes;
    if (last && suggestion) {
      EXPECT_LE(cost(suggestion->setup), cost(last->setup)) << gigabytes;
    }
    last = suggestion;
  }
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(cost(last->setup), std::tuple(0, -1, 1, 1, 0, -8));  // everything fits: nothing is given up
}

TEST(TrainingSuggestion, NothingIsSaidToFitThatDoesNot) {
  OpenedModel opened = open_shape("qwen2-0.5b");
  TrainingSuggestion least = least_training(opened, request(2, 1));
  SuggestionRequest enough = request(2, 1);
  enough.device_bytes = least.memory.peak_total;
  EXPECT_TRUE(suggest_training(opened, enough).has_value());
  --enough.device_bytes;
  EXPECT_FALSE(suggest_training(opened, enough).has_value());
  int devices = smallest_device_count(opened, enough, 16);
  EXPECT_EQ(devices, 4);
}

TEST(TrainingSuggestion, AdaptersNeedLessThanAllWeights) {
  OpenedModel opened = open_shape("gemma2-2b");
  SuggestionRequest full = request(4, 1), lora = full;
  lora.lora = LoraOptions{.rank = 16};
  EXPECT_LT(least_training(opened, lora).memory.peak_total, least_training(opened, full).memory.peak_total / 2);
}

TEST(TrainingSuggestion, DevicesThatCannotShareTheBatchAreAnError) {
  OpenedModel opened = open_shape("smollm2-135m");
  EXPECT_THROW(least_training(opened, request(5, 1)), Error);  // neither 16 rows nor 3 key/value heads
}

TEST(TrainingPlan, EveryShapeOfConfigsModelsCanBePlanned) {
  OpenedModel opened = open_shape("gemma2-27b");
  TrainingSetup setup{};
  setup.tensor = 8;
  setup.sequence_length = 4096;
  setup.engine.recompute = Recompute::block;
  TrainingMemory memory = TrainingPlanner(opened, LoraOptions{.rank = 16}, 8).plan(setup);
  EXPECT_NEAR(static_cast<double>(memory.peak(MemoryTag::weights)), 54.45e9 / 8, 0.1e9);
  EXPECT_LT(memory.peak_total, int64_t{12} << 30);
}

}  // namespace
}  // namespace weft
