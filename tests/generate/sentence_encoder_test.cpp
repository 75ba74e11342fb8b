// Vectors of texts: the same however the texts are cut into batches and shared among threads.
#include "generate/sentence_encoder.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/random.h"
#include "models/encoder.h"
#include "models/registry.h"

namespace weft {
namespace {

class SentenceEncoding : public ::testing::Test {
 protected:
  void SetUp() override {
    EncoderConfig config;
    config.info.vocab_size = 40;
    config.info.hidden_size = 16;
    config.info.intermediate_size = 32;
    config.info.num_layers = 2;
    config.info.num_heads = config.info.num_kv_heads = 2;
    config.info.head_dim = config.value_dim = 8;
    config.info.max_positions = 32;
    config.info.attention = AttentionPattern::bidirectional;
    config.info.has_language_model_head = false;
    config.embedding_size = 16;
    model_ = make_encoder(config, {});
    Context context = make_cpu_context(1);
    initialise_parameters(context, *model_, {.dtype = DType::f32}, 3);
    RandomKey key{.seed = 5};
    for (uint64_t text = 0; text < 60; ++text) {
      TokenisedText& made = texts_.emplace_back();
      for (uint64_t i = 0; i < 1 + key.bits(text) % 20; ++i) {
        made.ids.push_back(static_cast<int32_t>(key.bits(1000 + 100 * text + i) % 40));
      }
    }
  }

  std::vector<float> encode(int num_threads, const SentenceEncoderOptions& options) {
    Context context = make_cpu_context(num_threads);
    return encode_sentences(context, *model_, texts_, options);
  }

  std::unique_ptr<LanguageModel> model_;
  std::vector<TokenisedText> texts_;
};

TEST_F(SentenceEncoding, IsTheSameOnAnyNumberOfThreads) {
  for (Pooling pooling : {Pooling::mean, Pooling::max, Pooling::cls, Pooling::last, Pooling::none}) {
    std::vector<float> expected = encode(1, {.pooling = pooling, .batch_tokens = 1 << 20});
    for (int threads : {1, 2, 4}) {
      for (int64_t batch_tokens : {1, 50, 300}) {
        int64_t seen = 0;
        std::vector<float> actual = encode(
            threads,
            {.pooling = pooling, .batch_tokens = batch_tokens, .on_progress = [&](int64_t count) { seen += count; }});
        EXPECT_THAT(actual, ::testing::Pointwise(::testing::FloatNear(1e-6f), expected));
        EXPECT_EQ(seen, 60);
      }
    }
  }
}

TEST_F(SentenceEncoding, AnErrorInAThreadIsTheCallers) {
  texts_[37].ids = std::vector<int32_t>(33, 1);
  EXPECT_THROW(encode(3, {.batch_tokens = 40}), Error);
  texts_[37].ids = {41};
  EXPECT_THROW(encode(3, {.batch_tokens = 40}), Error);
}

}  // namespace
}  // namespace weft
