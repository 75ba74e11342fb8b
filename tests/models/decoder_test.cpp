#include <gtest/gtest.h>

#include "core/error.h"
#include "models/small_decoders.h"

namespace weft {
namespace {

using testing::NamedDecoder;

class DecoderKinds : public ::testing::TestWithParam<NamedDecoder> {
 protected:
  void SetUp() override { model_ = testing::make_random(context_, GetParam().config, {}, DType::f32); }

  std::vector<float> logits_at_end(const Batch& batch, KvCache* cache) {
    Tensor hidden = model_->hidden(context_, batch, cache);
    Tensor logits = model_->logits(context_, hidden.slice(hidden.size(0) - 1, hidden.size(0)));
    return {logits.data<float>(), logits.data<float>() + logits.num_elements()};
  }

  void expect_near(const std::vector<float>& actual, const std::vector<float>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 2e-6) << i;
  }

  Context context_ = make_cpu_context(2);
  std::unique_ptr<LanguageModel> model_;
  std::vector<int32_t> tokens_ = {5, 1, 36, 8, 8, 20, 3, 0, 14};
};

Batch batch_of(const std::vector<int32_t>& tokens, int64_t past = 0, int64_t slot = 0) {
  Batch batch;
  batch.add(tokens, past, slot);
  return batch;
}

TEST_P(DecoderKinds, CachedStepsEqualTheWholeSequence) {
  std::vector<float> expected = logits_at_end(batch_of(tokens_), nullptr);
  KvCache cache(context_, model_->kv_cache_shape(DType::f32), 2, 16);
  for (size_t prefill : {size_t{1}, size_t{4}, size_t{8}}) {
    logits_at_end(batch_of({tokens_.begin(), tokens_.begin() + static_cast<int64_t>(prefill)}, 0, 1), &cache);
    std::vector<float> logits;
    for (size_t i = prefill; i < tokens_.size(); ++i)
      logits = logits_at_end(batch_of({tokens_[i]}, static_cast<int64_t>(i), 1), &cache);
    expect_near(logits, expected);
  }
}

TEST_P(DecoderKinds, SequencesOfABatchDoNotSeeEachOther) {
  std::vector<float> alone = logits_at_end(batch_of(tokens_), nullptr);
  Batch both = batch_of({7, 7, 7});
  both.add(tokens_);
  expect_near(logits_at_end(both, nullptr), alone);
}

TEST_P(DecoderKinds, CopiedSlotsContinueAlike) {
  KvCache cache(context_, model_->kv_cache_shape(DType::f32), 2, 16);
  logits_at_end(batch_of({tokens_.begin(), tokens_.begin() + 5}, 0, 0), &cache);
  cache.copy_slot(0, 1, 5);
  expect_near(logits_at_end(batch_of({tokens_[5]}, 5, 1), &cache), logits_at_end(batch_of({tokens_[5]}, 5, 0), &cache));
}

TEST_P(DecoderKinds, IdsOutsideTheVocabularyAreRefused) {
  EXPECT_THROW(logits_at_end(batch_of({37}), nullptr), Error);
  EXPECT_THROW(logits_at_end(batch_of({-1}), nullptr), Error);
}

TEST_P(DecoderKinds, Bf16StaysCloseToF32) {
  std::vector<float> expected = logits_at_end(batch_of(tokens_), nullptr);
  auto bf16_model = make_decoder(GetParam().config, {});
  initialise_parameters(context_, *bf16_model, {.dtype = DType::bf16}, 17);  // packed, where this machine packs
  Tensor hidden = bf16_model->hidden(context_, batch_of(tokens_), nullptr);
  Tensor logits = bf16_model->logits(context_, hidden.slice(8, 9));
  float largest = 0;
  for (float value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(logits.data<float>()[i], expected[i], 0.05f * largest);
}

INSTANTIATE_TEST_SUITE_P(All, DecoderKinds, ::testing::ValuesIn(testing::small_decoders()), [](const auto& tested) {
  return tested.param.name;
});

}  // namespace
}  // namespace weft
