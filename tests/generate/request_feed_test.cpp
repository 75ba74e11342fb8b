// Requests that come while others are being answered.
#include <gmock/gmock.h>

#include <map>

#include "core/error.h"
#include "generate/generator.h"
#include "generate/toy_model.h"
#include "kernels/guarded.h"
#include "models/registry.h"
#include "support/paths.h"

namespace weft {
namespace {

GenerationRequest greedy_request(uint64_t seed, size_t length, int64_t max_new_tokens) {
  GenerationRequest request;
  RandomKey key{seed, 0, 3};
  for (size_t i = 0; i < length; ++i) request.prompt.push_back(static_cast<int32_t>(key.bits(i) % 64));
  request.max_new_tokens = max_new_tokens;
  return request;
}

/// Gives updates one a call, whatever there is room for.
class ScriptedFeed final : public RequestFeed {
 public:
  explicit ScriptedFeed(std::vector<Update> updates) : updates_(std::move(updates)) {}

  Update next(int64_t, bool) override {
    Update update = updates_.at(place_++);
    update.is_closed = place_ == updates_.size();
    return update;
  }

 private:
  std::vector<Update> updates_;
  size_t place_ = 0;
};

std::map<size_t, GenerationResult> serve(Generator& generator, const std::vector<RequestFeed::Update>& updates) {
  std::map<size_t, GenerationResult> results;
  GenerationHooks hooks;
  hooks.on_finish = [&](size_t index, const GenerationResult& result) {
    EXPECT_TRUE(results.emplace(index, result).second) << index << " finished twice";
  };
  ScriptedFeed feed(updates);
  generator.serve(feed, hooks);
  return results;
}

/// Longer ones from step to step, so that the cache has to grow while answers do, and idle steps between.
std::vector<RequestFeed::Update> growing_script() {
  std::vector<RequestFeed::Update> updates(60);
  updates[0].requests = {greedy_request(1, 3, 30), greedy_request(2, 9, 4)};
  updates[1].requests = {greedy_request(3, 40, 60)};
  updates[4].requests = {greedy_request(4, 150, 20), greedy_request(5, 2, 9), greedy_request(6, 7, 70)};
  updates[5].requests = {greedy_request(4, 150, 8)};
  updates[59].requests = {greedy_request(7, 400, 5), greedy_request(1, 3, 31)};
  return updates;
}

TEST(RequestFeed, AnswersAreThoseOfRequestsGivenAtOnce) {
  for (int64_t max_batch : {1, 2, 3, 8}) {
    Context context = make_cpu_context(1);
    ToyModel model;
    Generator generator(context, model, {.max_batch = max_batch, .prefill_chunk = 32});
    auto updates = growing_script();
    auto results = serve(generator, updates);
    size_t index = 0;
    for (const auto& update : updates) {
      for (const GenerationRequest& request : update.requests) {
        auto length = static_cast<size_t>(request.max_new_tokens);
        EXPECT_EQ(results.at(index).ids, model.expected_answer(request.prompt, length))
            << "request " << index << ", batch " << max_batch;
        EXPECT_EQ(results.at(index).finish_reason, FinishReason::length);
        ++index;
      }
    }
    EXPECT_EQ(results.size(), index);
    EXPECT_LE(model.largest_width, max_batch);
  }
}

/// Where a pass is queued before the last one's tokens are known, what it left in the cache goes along.
TEST(RequestFeed, GrowsBetweenPassesThatRunAhead) {
  Context host = make_cpu_context(1);
  Context device = make_context(make_guarded_allocator(), 1);
  OpenedModel opened = open_model({.path = test_data("hf/llama_gqa"), .family = {}, .compat = {}});
  auto updates = growing_script();
  std::map<size_t, GenerationResult> results[2];
  for (Context* context : {&host, &device}) {
    auto model = opened.make({});
    load_parameters(*context, opened, *model, {.dtype = DType::f32});
    for (auto& update : updates) {
      for (GenerationRequest& request : update.requests) {
        if (request.prompt.size() > 100) request.prompt.resize(100);
        request.max_new_tokens = std::min<int64_t>(request.max_new_tokens, 24);
      }
    }
    Generator generator(*context, *model, {.max_batch = 3, .prefill_chunk = 32});
    results[context == &host ? 0 : 1] = serve(generator, updates);
  }
  ASSERT_EQ(results[0].size(), 9u);
  for (const auto& [index, result] : results[0]) EXPECT_EQ(results[1].at(index).ids, result.ids) << index;
}

TEST(RequestFeed, ACancelledAnswerEndsAsItIsAndTakesNothingFromTheOthers) {
  Context context = make_cpu_context(1);
  ToyModel model;
  Generator generator(context, model, {.max_batch = 2, .prefill_chunk = 16});
  std::vector<RequestFeed::Update> updates(12);
  // The second waits for what the first computes of the same prompt, the third for a place.
  updates[0].requests = {greedy_request(1, 90, 50), greedy_request(1, 90, 12), greedy_request(3, 5, 6)};
  updates[2].cancelled = {0};
  updates[3].requests = {greedy_request(4, 6, 40), greedy_request(5, 6, 7)};
  updates[4].cancelled = {4, 0};  // the last has not begun; the first is over
  updates[11].cancelled = {3, 77};
  auto results = serve(generator, updates);
  EXPECT_EQ(results.at(0).finish_reason, FinishReason::interrupted);
  EXPECT_TRUE(results.at(0).ids.empty());
  EXPECT_EQ(results.at(1).ids, model.expected_answer(updates[0].requests[1].prompt, 12));
  EXPECT_EQ(results.at(2).ids, model.expected_answer(updates[0].requests[2].prompt, 6));
  EXPECT_EQ(results.at(4).finish_reason, FinishReason::interrupted);
  EXPECT_EQ(results.at(3).finish_reason, FinishReason::interrupted);
  EXPECT_EQ(results.at(3).ids, model.expected_answer(updates[3].requests[0].prompt, results.at(3).ids.size()));
}

TEST(RequestFeed, StopsInTheMiddleOfAllOfIt) {
  Context context = make_cpu_context(1);
  ToyModel model;
  Generator generator(context, model, {.max_batch = 1});
  RequestFeed::Update all;
  for (uint64_t seed = 1; seed < 4; ++seed) all.requests.push_back(greedy_request(seed, 4, 30));
  ScriptedFeed feed({all, {}});
  std::vector<FinishReason> reasons;
  int steps = 0;
  GenerationHooks hooks;
  hooks.should_stop = [&] { return ++steps > 10; };
  hooks.on_finish = [&](size_t, const GenerationResult& result) { reasons.push_back(result.finish_reason); };
  generator.serve(feed, hooks);
  EXPECT_THAT(reasons,
              testing::ElementsAre(FinishReason::interrupted, FinishReason::interrupted, FinishReason::interrupted));
}

TEST(AddedToLogits, DependOnTheAnswerAlone) {
  Context context = make_cpu_context(1);
  ToyModel model;
  GenerationRequest request = greedy_request(9, 12, 40);
  request.sampling.presence_penalty = 0.3;
  request.sampling.frequency_penalty = 0.7;
  request.sampling.logit_bias = {{5, 1.5}, {6, -100}};
  GenerationRequest plain = greedy_request(10, 4, 40);  // in the same passes
  auto results = Generator(context, model, {}).run(std::vector{request, plain});
  EXPECT_EQ(results[1].ids, model.expected_answer(plain.prompt, 40));
  std::vector<int32_t> history = request.prompt;
  std::vector<int64_t> counts(64);
  for (int32_t id : results[0].ids) {
    std::vector<float> logits = model.expected_logits(history);
    for (size_t i = 0; i < logits.size(); ++i) {
      double taken = counts[i] > 0 ? 0.3 + 0.7 * static_cast<double>(counts[i]) : 0;
      logits[i] -= static_cast<float>(taken);
    }
    logits[5] += 1.5F;
    logits[6] -= 100.0F;
    EXPECT_EQ(id, std::ranges::max_element(logits) - logits.begin());
    ++counts[static_cast<size_t>(id)];
    history.push_back(id);
  }
}

TEST(TokenLogprobs, AreOfTheModelsOwnDistribution) {
  Context context = make_cpu_context(1);
  ToyModel model;
  GenerationRequest request = greedy_request(9, 5, 6);
  request.sampling.greedy = false;
  request.sampling.temperature = 3;
  request.sampling.forbidden_ids = {4, 5};
  request.num_logprobs = 3;
  GenerationHooks hooks;
  size_t seen = 0;
  hooks.on_token = [&](const DrawnToken& token) { seen += token.logprobs != nullptr ? 1 : 0; };
  GenerationResult result = Generator(context, model, {}).run(std::span(&request, 1), hooks)[0];
  ASSERT_EQ(result.logprobs.size(), 6u);
  EXPECT_EQ(seen, 6u);
  std::vector<int32_t> history = request.prompt;
  for (size_t i = 0; i < result.ids.size(); ++i) {
    std::vector<float> logits = model.expected_logits(history);
    double sum = 0;
    for (float logit : logits) sum += std::exp(static_cast<double>(logit));
    auto expected = [&](int32_t id) { return logits[static_cast<size_t>(id)] - std::log(sum); };
    EXPECT_NEAR(result.logprobs[i].logprob, expected(result.ids[i]), 1e-5);
    ASSERT_EQ(result.logprobs[i].top.size(), 3u);
    EXPECT_EQ(result.logprobs[i].top[0].first, model.expected_answer(history, 1)[0]);
    for (size_t place = 0; place < 3; ++place) {
      auto [id, logprob] = result.logprobs[i].top[place];
      EXPECT_NEAR(logprob, expected(id), 1e-5);
      auto likelier = std::ranges::count_if(
          logits, [bound = logits[static_cast<size_t>(id)]](float logit) { return logit > bound; });
      EXPECT_EQ(likelier, static_cast<std::ptrdiff_t>(place));
    }
    history.push_back(result.ids[i]);
  }
  request.num_logprobs = 0;
  EXPECT_TRUE(Generator(context, model, {}).run(std::span(&request, 1))[0].logprobs.at(0).top.empty());
  request.num_logprobs = -1;
  EXPECT_TRUE(Generator(context, model, {}).run(std::span(&request, 1))[0].logprobs.empty());
}

}  // namespace
}  // namespace weft
