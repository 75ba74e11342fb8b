#include "plan/speed_bounds.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

OpenedModel shape(const std::string& name) {
  return open_model({.path = WEFT_TEST_DATA "/../../configs/models/" + name + ".json", .family = {}, .compat = {}});
}

TEST(SpeedBounds, DecodeReadsAllMatricesOnceAndTheCacheOfEverySequence) {
  OpenedModel opened = shape("llama3-8b");
  auto model = opened.make({});
  DecodeCost cost = decode_cost(opened, *model, DType::bf16, {.batch = 2, .prompt_tokens = 100, .new_tokens = 200});
  // 8.03 billion parameters less the token table of 128256 × 4096, 2 bytes each.
  EXPECT_NEAR(static_cast<double>(cost.weight_bytes), 2 * (8.030e9 - 128256.0 * 4096), 2e6);
  EXPECT_EQ(cost.cache_bytes, 2LL * 2 * 32 * 8 * 128 * 2 * 200);
}

TEST(SpeedBounds, SlidingWindowsBoundTheCacheThatIsRead) {
  OpenedModel opened = shape("gemma2-2b");
  auto model = opened.make({});
  DecodeCost cost = decode_cost(opened, *model, DType::bf16, {.batch = 1, .prompt_tokens = 8000, .new_tokens = 0});
  EXPECT_EQ(cost.cache_bytes, 2LL * 4 * 256 * 2 * (13 * 4096 + 13 * 8000));
}

TEST(SpeedBounds, PrefillCountsWeightsAttentionAndOneRowOfLogits) {
  OpenedModel opened = shape("smollm2-135m");
  auto model = opened.make({});
  double head = 49152.0 * 576;
  double matrices = 134.5e6 - head;  // tied: the head is the token table
  double attention = 4.0 * 30 * 576 * (512.0 * 513 / 2);
  double expected = 2 * 512 * matrices + attention + 2 * head;
  double flops = prefill_flops(opened, *model, {.batch = 1, .prompt_tokens = 512});
  EXPECT_NEAR(flops, expected, 0.002 * expected);
  EXPECT_DOUBLE_EQ(prefill_flops(opened, *model, {.batch = 3, .prompt_tokens = 512}), 3 * flops);
}

TEST(SpeedBounds, RanksShareTheWork) {
  OpenedModel opened = shape("gemma2-27b");
  Workload workload{.batch = 1, .prompt_tokens = 512};
  double whole = prefill_flops(opened, *opened.make({}), workload);
  double part = prefill_flops(opened, *opened.make({.rank = 3, .size = 8}), workload);
  EXPECT_NEAR(part, whole / 8, 1e-6 * whole);
}

}  // namespace
}  // namespace weft
