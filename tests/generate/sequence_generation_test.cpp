// Generation with encoder-decoders, whose sources lie in slots of their own, and with RWKV-6, whose cache is a state
// that cannot be cut back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "generate/beam_search.h"
#include "models/registry.h"
#include "support/paths.h"

namespace weft {
namespace {

/// Token ids at random, of the lengths given, from 1 on.
std::vector<std::vector<int32_t>> random_texts(std::initializer_list<size_t> lengths, int64_t vocab_size) {
  std::vector<std::vector<int32_t>> texts;
  for (size_t length : lengths) {
    RandomKey key{.seed = 9, .step = static_cast<uint32_t>(length), .site = static_cast<uint32_t>(texts.size())};
    std::vector<int32_t> text(length);
    for (size_t i = 0; i < length; ++i) {
      text[i] = static_cast<int32_t>(1 + key.bits(i) % static_cast<uint64_t>(vocab_size - 1));
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

class SequenceGeneration : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    OpenedModel opened = open_model({.path = test_data("hf/") + GetParam(), .family = {}, .compat = {}});
    model_ = opened.make({});
    load_parameters(context_, opened, *model_, {.dtype = DType::f32});
  }

  template <typename Request>
  std::vector<Request> requests(std::initializer_list<size_t> lengths, int64_t max_new_tokens = 12) const {
    std::vector<Request> all;
    for (std::vector<int32_t>& text : random_texts(lengths, model_->info().vocab_size)) {
      Request request;
      set_text(request, model_->info(), text);
      request.max_new_tokens = max_new_tokens + static_cast<int64_t>(all.size()) % 3;
      all.push_back(std::move(request));
    }
    return all;
  }

  /// Log probabilities of what follows a history, computed without a cache.
  std::vector<double> next_log_probs(const std::vector<int32_t>& source, const std::vector<int32_t>& history) {
    Batch batch;
    batch.add(history);
    if (model_->info().has_source) batch.add_source(source);
    Tensor hidden = model_->hidden(context_, batch, nullptr);
    Tensor logits = model_->logits(context_, hidden.slice(hidden.size(0) - 1, hidden.size(0)));
    std::vector<double> values(logits.data<float>(), logits.data<float>() + logits.num_elements());
    double maximum = *std::max_element(values.begin(), values.end()), sum = 0;
    for (double value : values) sum += std::exp(value - maximum);
    for (double& value : values) value -= maximum + std::log(sum);
    return values;
  }

  std::vector<int32_t> greedy_without_a_cache(const GenerationRequest& request) {
    std::vector<int32_t> history = request.prompt;
    for (int64_t i = 0; i < request.max_new_tokens; ++i) {
      std::vector<double> next = next_log_probs(request.source, history);
      history.push_back(static_cast<int32_t>(std::max_element(next.begin(), next.end()) - next.begin()));
    }
    return {history.begin() + static_cast<std::ptrdiff_t>(request.prompt.size()), history.end()};
  }

  struct Hypothesis {
    std::vector<int32_t> ids;
    double score = 0;
  };

  /// The best `count` continuations by one token each; no answer ends early.
  std::vector<Hypothesis> beams_without_a_cache(const BeamRequest& request) {
    auto width = static_cast<size_t>(request.beams.num_beams);
    std::vector<Hypothesis> beams = {{}};
    for (int64_t step = 0; step < request.max_new_tokens; ++step) {
      std::vector<Hypothesis> grown;
      for (const Hypothesis& beam : beams) {
        std::vector<int32_t> history = request.prompt;
        history.insert(history.end(), beam.ids.begin(), beam.ids.end());
        std::vector<double> next = next_log_probs(request.source, history);
        for (size_t id = 0; id < next.size(); ++id) {
          Hypothesis longer = beam;
          longer.ids.push_back(static_cast<int32_t>(id));
          longer.score += next[id];
          grown.push_back(std::move(longer));
        }
      }
      std::sort(grown.begin(), grown.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
      grown.resize(std::min(width, grown.size()));
      beams = std::move(grown);
    }
    return beams;
  }

  Context context_ = make_cpu_context(1);
  std::unique_ptr<LanguageModel> model_;
};

TEST_P(SequenceGeneration, AnswersOfABatchAreWhatTheWholeHistoryGives) {
  auto all = requests<GenerationRequest>({7, 1, 23, 40, 2, 11, 23, 5});
  std::vector<std::vector<int32_t>> expected;
  expected.reserve(all.size());
  for (const GenerationRequest& request : all) expected.push_back(greedy_without_a_cache(request));
  for (int64_t max_batch : {1, 3, 8}) {
    for (int64_t prefill_chunk : {5, 64}) {
      Generator generator(context_, *model_, {.max_batch = max_batch, .prefill_chunk = prefill_chunk});
      for (int round = 0; round < 2; ++round) {
        auto results = generator.run(all);
        for (size_t i = 0; i < all.size(); ++i) {
          EXPECT_EQ(results[i].ids, expected[i])
              << "request " << i << " round " << round << ", batches of " << max_batch << ", chunks " << prefill_chunk;
        }
      }
    }
  }
}

/// More requests than slots, some of which end at once.
TEST_P(SequenceGeneration, SlotsAreReusedAsAnswersEnd) {
  auto all = requests<GenerationRequest>({3, 9, 4, 17, 1, 6, 12, 2, 30});
  std::vector<std::vector<int32_t>> expected;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i % 3 == 1) all[i].max_new_tokens = 1;
    expected.push_back(greedy_without_a_cache(all[i]));
  }
  Generator generator(context_, *model_, {.max_batch = 2, .prefill_chunk = 8});
  auto results = generator.run(all);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(results[i].ids, expected[i]) << "request " << i;
  // What an interrupted run leaves behind disturbs nobody.
  int step = 0;
  GenerationHooks hooks;
  hooks.should_stop = [&] { return ++step > 4; };
  generator.run(all, hooks);
  results = generator.run(all);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(results[i].ids, expected[i]) << "request " << i;
}

TEST_P(SequenceGeneration, BeamsAreThoseOfExhaustiveRecomputation) {
  auto all = requests<BeamRequest>({7, 1, 19}, 6);
  for (BeamRequest& request : all) {
    request.beams = {.num_beams = 4, .length_penalty = 0};
    request.num_results = 4;
    request.end_ids = {};
  }
  for (int64_t max_batch : {4, 12}) {
    BeamSearch search(context_, *model_, {.max_batch = max_batch, .prefill_chunk = 8});
    for (int round = 0; round < 2; ++round) {
      auto found = search.run(all);
      for (size_t i = 0; i < all.size(); ++i) {
        std::vector<Hypothesis> expected = beams_without_a_cache(all[i]);
        ASSERT_EQ(found[i].size(), expected.size());
        for (size_t place = 0; place < expected.size(); ++place) {
          EXPECT_EQ(found[i][place].ids, expected[place].ids) << "request " << i << " place " << place;
          EXPECT_NEAR(found[i][place].score, expected[place].score, 1e-3) << "request " << i << " place " << place;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         SequenceGeneration,
                         ::testing::Values("t5_v10", "t5_v11", "umt5", "gpt2", "rwkv6/model.safetensors"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           return name.substr(0, name.find('/'));
                         });

class RecurrentGeneration : public SequenceGeneration {};

/// The state is that behind the answer's last token but one.
TEST_P(RecurrentGeneration, AConversationGoesOnFromTheState) {
  Generator generator(context_, *model_, {.max_batch = 1});
  std::vector<int32_t> history = random_texts({30}, model_->info().vocab_size)[0];
  int64_t computed = 0;
  for (int turn = 0; turn < 4; ++turn) {
    GenerationRequest request;
    request.prompt = history;
    request.max_new_tokens = 10;
    auto result = generator.run(std::span(&request, 1))[0];
    ASSERT_EQ(result.ids, greedy_without_a_cache(request)) << "turn " << turn;
    int64_t now = generator.stats().prompt_tokens;
    EXPECT_EQ(now - computed, turn == 0 ? 30 : 1 + 5) << "turn " << turn;
    computed = now;
    history.insert(history.end(), result.ids.begin(), result.ids.end());
    std::vector<int32_t> message = random_texts({5}, model_->info().vocab_size)[0];
    history.insert(history.end(), message.begin(), message.end());
  }
}

/// A prompt that is a beginning of what the state has seen, or parts from it, is computed from its first token.
TEST_P(RecurrentGeneration, AStateThatSawMoreIsNotUsed) {
  Generator generator(context_, *model_, {.max_batch = 1});
  auto request = requests<GenerationRequest>({20})[0];
  generator.run(std::span(&request, 1));
  for (size_t length : {20u, 12u, 1u}) {
    GenerationRequest shorter = request;
    shorter.prompt.resize(length);
    int64_t before = generator.stats().prompt_tokens;
    auto result = generator.run(std::span(&shorter, 1))[0];
    EXPECT_EQ(result.ids, greedy_without_a_cache(shorter)) << length;
    EXPECT_EQ(generator.stats().prompt_tokens - before, static_cast<int64_t>(length));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RecurrentGeneration, ::testing::Values("rwkv6/model.safetensors"), [](const auto&) {
  return "rwkv6";
});

class SourceGeneration : public SequenceGeneration {};

TEST_P(SourceGeneration, NeedsASourceThatTheModelKnows) {
  for (const std::vector<int32_t>& source : {std::vector<int32_t>{}, {1, 1 << 20}, {-1}}) {
    std::vector<GenerationRequest> one = requests<GenerationRequest>({3});
    one[0].source = source;
    EXPECT_THROW(Generator(context_, *model_, {}).run(one), Error);
    std::vector<BeamRequest> beams = requests<BeamRequest>({3});
    beams[0].source = source;
    EXPECT_THROW(BeamSearch(context_, *model_, {}).run(beams), Error);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SourceGeneration, ::testing::Values("t5_v11"), [](const auto&) { return "t5"; });

}  // namespace
}  // namespace weft
