// Gradient checkpointing: the same gradients to the bit, less memory.

#include <gtest/gtest.h>

#include "autograd/block.h"
#include "models/training_pass.h"

namespace weft {
namespace {

using testing::NamedDecoder;
using testing::Outcome;
using testing::PassOptions;
using testing::run_pass;

class Hooks final : public BlockHooks {
 public:
  explicit Hooks(Recompute recompute, int64_t every = 1) : recompute_(recompute), every_(every) {}
  Recompute recompute(int64_t block) const override { return block % every_ == 0 ? recompute_ : Recompute::none; }
  void before_forward(Context&, int64_t block) override { log("<", block); }
  void after_forward(Context&, int64_t block) override { log(">", block); }
  void before_backward(Context&, int64_t block) override { log("(", block); }
  void after_backward(Context&, int64_t block) override { log(")", block); }

  std::string calls;

 private:
  void log(const char* what, int64_t block) { calls += what + std::to_string(block); }
  Recompute recompute_;
  int64_t every_;
};

class RecomputeOf : public ::testing::TestWithParam<std::tuple<NamedDecoder, DType>> {};

TEST_P(RecomputeOf, GivesTheSameBits) {
  auto [decoder, dtype] = GetParam();
  LoraOptions lora{.rank = 2, .dropout = 0.4};
  for (const LoraOptions* adapter :
       {static_cast<const LoraOptions*>(nullptr), static_cast<const LoraOptions*>(&lora)}) {
    Hooks none(Recompute::none), selective(Recompute::selective), block(Recompute::block), second(Recompute::block, 2);
    PassOptions options{.lora = adapter, .train_base = adapter == nullptr, .dtype = dtype, .hooks = &none};
    Outcome expected = run_pass(decoder.config, options);
    for (Hooks* hooks : {&selective, &block, &second}) {
      options.hooks = hooks;
      Outcome actual = run_pass(decoder.config, options);
      EXPECT_EQ(actual.loss, expected.loss);
      EXPECT_EQ(actual.gradients, expected.gradients);
      EXPECT_EQ(hooks->calls, none.calls);
    }
    EXPECT_EQ(none.calls, "<0>0<1>1<2>2(2)2(1)1(0)0");
  }
}

INSTANTIATE_TEST_SUITE_P(All,
                         RecomputeOf,
                         ::testing::Combine(::testing::ValuesIn(testing::small_decoders()),
                                            ::testing::Values(DType::f64, DType::bf16)),
                         [](const auto& tested) {
                           return std::get<0>(tested.param).name + "_" +
                                  std::string(dtype_name(std::get<1>(tested.param)));
                         });

TEST(Recompute, WithSequenceParallelismGivesTheSame) {
  DecoderConfig config = testing::small_decoder(4, 4);
  PassOptions options{.ranks = 2, .sequence_parallel = true};
  Outcome expected = run_pass(config, options);
  for (Recompute mode : {Recompute::selective, Recompute::block}) {
    testing::RecomputeHooks hooks(mode);
    options.hooks = &hooks;
    Outcome actual = run_pass(config, options);
    EXPECT_EQ(actual.loss, expected.loss);
    EXPECT_EQ(actual.gradients, expected.gradients);
  }
}

/// Elements of activations that a forward pass keeps, a token and layer.
double kept_elements(Recompute recompute, const LoraOptions* lora, bool train_base) {
  constexpr int64_t kTokens = 64;
  DecoderConfig config = testing::small_decoder(4, 2);
  double kept[2];
  for (int64_t layers : {2, 4}) {
    config.info.num_layers = layers;
    Hooks hooks(recompute);
    run_thread_ranks(1, [&](const std::shared_ptr<Communicator>& communicator) {
      PassOptions options{.lora = lora, .train_base = train_base, .dtype = DType::f32, .hooks = &hooks};
      options.batch.add(std::vector<int32_t>(kTokens, 1));
      testing::Rank rank(config, options, communicator);
      Tape tape;
      rank.context.tape = &tape;
      int64_t before = rank.context.allocator->memory().current(MemoryTag::activations);
      Tensor hidden = rank.model->hidden(rank.context, rank.batch, nullptr);
      int64_t after = rank.context.allocator->memory().current(MemoryTag::activations);
      kept[layers / 2 - 1] = static_cast<double>(after - before) / sizeof(float) / kTokens;
    });
  }
  return (kept[1] - kept[0]) / 2;
}

// hidden 24, 4 query and 2 key/value heads of 6, feed-forward 32.
TEST(Recompute, KeepsWhatItSays) {
  constexpr double kHidden = 24, kQuery = 24, kKeyValue = 12, kFeedForward = 32, kHeads = 4;
  double products = kQuery + 2 * kKeyValue + 2 * kFeedForward;
  double sums = 2 * kHidden;
  EXPECT_EQ(kept_elements(Recompute::none, nullptr, true),
            sums + 2 * kHidden + products + kQuery + kHeads + kFeedForward);
  EXPECT_EQ(kept_elements(Recompute::selective, nullptr, true), sums + products + kQuery + kHeads);
  EXPECT_EQ(kept_elements(Recompute::block, nullptr, true), kHidden);
}

TEST(Recompute, FrozenWeightsKeepNoInputs) {
  constexpr double kHidden = 24, kQuery = 24, kKeyValue = 12, kFeedForward = 32, kHeads = 4, kRank = 2;
  LoraOptions lora{.rank = 2, .target_modules = {"q_proj"}};
  double products = kQuery + 2 * kKeyValue + 2 * kFeedForward;
  // Of the norms' results only the one that q_proj's adapter reads; attention keeps its own result.
  EXPECT_EQ(kept_elements(Recompute::none, &lora, false), 3 * kHidden + products + kQuery + kHeads + kRank);
  EXPECT_EQ(kept_elements(Recompute::selective, &lora, false), 2 * kHidden + products + kQuery + kHeads + kRank);
}

}  // namespace
}  // namespace weft
