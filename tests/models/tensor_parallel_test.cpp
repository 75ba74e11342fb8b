// The promise: the same answer at every split, gradients included.

#include <gtest/gtest.h>

#include "core/error.h"
#include "models/training_pass.h"

namespace weft {
namespace {

using testing::expect_same;
using testing::NamedDecoder;
using testing::Outcome;
using testing::run_pass;

bool fits(const DecoderConfig& config, int size) {
  return size <= config.info.num_kv_heads || size % config.info.num_kv_heads == 0;
}

class TensorParallel : public ::testing::TestWithParam<std::tuple<int, NamedDecoder>> {};

TEST_P(TensorParallel, GivesWhatOneRankGives) {
  auto [size, decoder] = GetParam();
  if (!fits(decoder.config, size)) {
    EXPECT_THROW(make_decoder(decoder.config, {0, size}), Error);
    return;
  }
  Outcome one = run_pass(decoder.config, {});
  EXPECT_EQ(one.gradients.size(), make_decoder(decoder.config, {})->parameters().all().size());
  expect_same(run_pass(decoder.config, {.ranks = size}), one);
}

TEST_P(TensorParallel, WithSequenceParallelismGivesTheSame) {
  auto [size, decoder] = GetParam();
  if (!fits(decoder.config, size)) return;
  Outcome one = run_pass(decoder.config, {.with_offset = true});
  expect_same(run_pass(decoder.config, {.ranks = size, .with_offset = true}), one);
  expect_same(run_pass(decoder.config, {.ranks = size, .sequence_parallel = true, .with_offset = true}), one);
  Batch short_batch;
  short_batch.add({4, 9, 1, 2, 30});  // the last of four ranks has no token
  one = run_pass(decoder.config, {.reduction = LossReduction::sum, .batch = short_batch});
  expect_same(
      run_pass(decoder.config,
               {.ranks = size, .sequence_parallel = true, .reduction = LossReduction::sum, .batch = short_batch}),
      one);
}

TEST_P(TensorParallel, GivesTheSameAdapterGradients) {
  auto [size, decoder] = GetParam();
  if (!fits(decoder.config, size)) return;
  LoraOptions lora{.rank = 3, .alpha = 5, .dropout = 0.3};
  Outcome one = run_pass(decoder.config, {.lora = &lora, .train_base = false});
  EXPECT_EQ(one.gradients.size(), 2u * 7u * 3u);
  expect_same(run_pass(decoder.config, {.ranks = size, .lora = &lora, .train_base = false}), one);
  expect_same(run_pass(decoder.config, {.ranks = size, .sequence_parallel = true, .lora = &lora, .train_base = false}),
              one);
}

INSTANTIATE_TEST_SUITE_P(All,
                         TensorParallel,
                         ::testing::Combine(::testing::Values(2, 4), ::testing::ValuesIn(testing::small_decoders())),
                         [](const auto& tested) {
                           return std::get<1>(tested.param).name + "_on_" + std::to_string(std::get<0>(tested.param));
                         });

TEST(TensorParallel, DegreesThatDoNotFitAreRefused) {
  EXPECT_THROW(make_decoder(testing::small_decoder(4, 4), {0, 3}), Error);  // 32 intermediate columns
  EXPECT_THROW(make_decoder(testing::small_decoder(6, 2), {0, 3}), Error);
  EXPECT_THROW(make_decoder(testing::small_decoder(2, 2), {0, 4}), Error);
}

}  // namespace
}  // namespace weft
