#include "plan/speed_bounds.h"
#include "support/paths.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

OpenedModel shape(const std::string& name) {
  return open_model({.path = source_path("configs/models/") + name + ".json", .family = {}, .compat = {}});
}

TEST(SpeedBounds, DecodeReadsAllMatricesOnceAndTheCacheOfEverySequence) {
  OpenedModel opened = shape("llama3-8b");
  auto model = opened.make({});
  DecodeCost cost =
      decode_cost(opened, *model, {.dtype = DType::bf16}, {.batch = 2, .prompt_tokens = 100, .new_tokens = 200});
  // 8.03 billion parameters less the token table of 128256 × 4096, 2 bytes each.
  EXPECT_NEAR(static_cast<double>(cost.weight_bytes), 2 * (8.030e9 - 128256.0 * 4096), 2e6);
  EXPECT_EQ(cost.cache_bytes, 2LL * 2 * 32 * 8 * 128 * 2 * 200);
}

TEST(SpeedBounds, QuantizedWeightsCountWithTheirScales) {
  OpenedModel opened = shape("smollm2-135m");
  auto model = opened.make({});
  Workload workload{.batch = 1, .prompt_tokens = 100, .new_tokens = 10};
  double table = 49152.0 * 576, blocks = 30 * (2 * 576.0 * 576 + 2 * 192 * 576 + 3 * 1536 * 576), norms = 61 * 576 * 2;
  auto bytes = [&](Quantization quantization) {
    LoadOptions weights{.dtype = DType::bf16, .quantization = quantization};
    return static_cast<double>(decode_cost(opened, *model, weights, workload).weight_bytes);
  };
  EXPECT_DOUBLE_EQ(bytes(Quantization::int8), (table + blocks) * 34 / 32 + norms);
  EXPECT_DOUBLE_EQ(bytes(Quantization::int4), table * 34 / 32 + blocks * 20 / 32 + norms);
}

TEST(SpeedBounds, SlidingWindowsBoundTheCacheThatIsRead) {
  OpenedModel opened = shape("gemma2-2b");
  auto model = opened.make({});
  DecodeCost cost =
      decode_cost(opened, *model, {.dtype = DType::bf16}, {.batch = 1, .prompt_tokens = 8000, .new_tokens = 0});
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

TEST(SpeedBounds, StepsOfAnEncoderDecoderReadItsDecoderAndSourcesAreEncodedOnce) {
  OpenedModel opened = shape("flan-t5-small");
  auto model = opened.make({});
  Seq2SeqWorkload workload{.batch = 2, .source_tokens = 50, .new_tokens = 20, .num_beams = 3};
  Seq2SeqCost cost = seq2seq_cost(*model, {.dtype = DType::bf16}, workload);
  double projection = 512.0 * 384;
  double mlp = 3 * 512.0 * 1024;
  double decoder = 8 * (6 * projection + mlp + 3 * 512) + 512 + 32 * 6;
  EXPECT_DOUBLE_EQ(static_cast<double>(cost.weight_bytes), 2 * (decoder + 32128.0 * 512));
  EXPECT_EQ(cost.cache_bytes, 2LL * 2 * 8 * 384 * 2 * (3 * 10 + 50));
  double flops = 2 * 100 * 8 * (4 * projection + mlp + 2 * projection) + 4.0 * 100 * 8 * 384 * 50;
  EXPECT_DOUBLE_EQ(cost.source_flops, flops);
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
