// Saved on one mesh, restored on another: every element of weights and optimizer state is where it belongs.

#include <gtest/gtest.h>

#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"
#include "training_checkpoint/rank_run.h"

namespace weft {
namespace {

using testing::RankRun;
using testing::run_ranks;
using testing::RunOptions;

constexpr uint64_t kSeed = 77;

void save(const std::string& directory, int size, const RunOptions& options, CheckpointOptions checkpoint = {}) {
  checkpoint.directory = directory;
  run_ranks(size, options, [&](RankRun& run) {
    run.fill(kSeed);
    auto store = run.open_store(checkpoint);
    ASSERT_TRUE(store->begin_save(
        {.step = 12, .updates = 11, .next_row = 96, .tokens_seen = 1000, .seed = ~0ull, .data_fingerprint = ~1ull}));
    ASSERT_TRUE(store->complete_save());
  });
}

void expect_restored(const std::string& directory, int size, const RunOptions& options) {
  run_ranks(size, options, [&](RankRun& run) {
    auto store = run.open_store({.directory = directory});
    auto latest = store->find_latest();
    ASSERT_TRUE(latest.has_value());
    EXPECT_EQ(*latest, directory + "/step-00000012");
    TrainState state = store->restore(*latest);
    EXPECT_EQ(state.step, 12);
    EXPECT_EQ(state.updates, 11);
    EXPECT_EQ(state.next_row, 96);
    EXPECT_EQ(state.tokens_seen, 1000);
    EXPECT_EQ(state.seed, ~0ull);
    EXPECT_EQ(state.data_fingerprint, ~1ull);
    EXPECT_TRUE(state.has_optimizer_state);
    EXPECT_TRUE(state.held_out.empty());
    EXPECT_TRUE(std::isnan(state.best_value));
    EXPECT_EQ(run.num_wrong(kSeed), 0) << size << " ranks, tensor " << options.tensor_parallel;
  });
}

RunOptions with(RunOptions options, int tensor_parallel, int zero_stage) {
  options.tensor_parallel = tensor_parallel;
  options.zero_stage = zero_stage;
  return options;
}

TEST(Resharding, DataTwoByTensorTwoGoesOnAnyMesh) {
  for (int zero_stage : {0, 1}) {
    TempFolder folder;
    RunOptions options;
    save(folder.path(), 4, with(options, 2, zero_stage));
    for (int restored_stage : {0, 1}) {
      expect_restored(folder.path(), 1, with(options, 1, restored_stage));
      expect_restored(folder.path(), 4, with(options, 1, restored_stage));
      expect_restored(folder.path(), 4, with(options, 4, restored_stage));
      expect_restored(folder.path(), 4, with(options, 2, restored_stage));
    }
  }
}

TEST(Resharding, UnevenHeadsAndVocabulary) {
  RunOptions options{.config = testing::small_decoder(9, 3)};
  TempFolder folder;
  save(folder.path(), 4, with(options, 2, 1));
  expect_restored(folder.path(), 2, with(options, 2, 0));
  expect_restored(folder.path(), 4, with(options, 1, 1));
}

TEST(Resharding, KeyValueHeadsThatSeveralRanksHoldAreWrittenOnce) {
  RunOptions options{.config = testing::small_decoder(8, 2)};
  options.config.qkv_bias = options.config.output_bias = true;
  TempFolder folder;
  save(folder.path(), 4, with(options, 4, 1));
  expect_restored(folder.path(), 2, with(options, 2, 0));
  expect_restored(folder.path(), 1, with(options, 1, 0));
}

TEST(Resharding, Bf16WeightsWithMastersAndAverages) {
  RunOptions options{.dtype = DType::bf16, .states = {"master", "exp_avg", "ema"}};
  TempFolder folder;
  save(folder.path(), 4, with(options, 2, 1));
  expect_restored(folder.path(), 2, with(options, 1, 1));
  auto weights = open_checkpoint(folder.path() + "/step-00000012");
  EXPECT_EQ(weights->info("model.norm.weight").storage_type, "BF16");
  auto averages = open_checkpoint(folder.path() + "/step-00000012/ema");
  EXPECT_EQ(averages->info("model.norm.weight").storage_type, "F32");
  float average = 0;
  averages->read_slice("model.norm.weight", std::array<int64_t, 1>{3}, std::array<int64_t, 1>{4}, &average, DType::f32);
  EXPECT_EQ(average, testing::formula(kSeed, "ema/model.norm.weight", 3));
}

TEST(Resharding, SeveralFilesAndAnIndex) {
  TempFolder folder;
  save(folder.path(), 2, with({}, 2, 0), {.directory = "", .max_file_bytes = 20'000});
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/step-00000012/model.safetensors.index.json"));
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/step-00000012/optimizer.safetensors.index.json"));
  expect_restored(folder.path(), 1, {});
}

TEST(Resharding, WeightsAloneBringBackWhatIsACopyOfThem) {
  TempFolder folder;
  RunOptions options{.states = {"exp_avg", "ema"}};
  save(folder.path(), 2, with(options, 2, 0), {.directory = "", .optimizer_state = false});
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/step-00000012/optimizer.safetensors"));
  run_ranks(1, {.states = {"master", "ema"}}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path()});
    EXPECT_FALSE(store->restore(*store->find_latest()).has_optimizer_state);
    const Parameter& norm = *run.model->parameters().find("model.norm.weight");
    size_t piece = 0;
    while (run.optimizer->pieces()[piece].parameter != &norm) ++piece;
    EXPECT_EQ(norm.value.data<float>()[3], testing::formula(kSeed, norm.name, 3));
    for (const char* state : {"master", "ema"}) {
      float value = 0;
      run.optimizer->read_state(state, piece, 3, 4, &value);
      EXPECT_EQ(value, norm.value.data<float>()[3]) << state;
    }
  });
}

TEST(Resharding, AnotherModelOrOptimizerIsRefused) {
  TempFolder folder;
  save(folder.path(), 1, {});
  auto error = [&](const RunOptions& options) {
    return error_of([&] {
      run_ranks(1, options, [&](RankRun& run) {
        auto store = run.open_store({.directory = folder.path()});
        store->restore(*store->find_latest());
      });
    });
  };
  std::string other_model = error({.config = testing::small_decoder(8, 4)});
  EXPECT_NE(other_model.find("q_proj.weight is [24, 24], this run has [48, 24]"), std::string::npos) << other_model;
  std::string other_optimizer = error({.states = {"exp_avg", "momentum"}});
  EXPECT_NE(other_optimizer.find("holds no momentum/model.embed_tokens.weight"), std::string::npos) << other_optimizer;
}

}  // namespace
}  // namespace weft
