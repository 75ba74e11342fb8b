#include "generate/beam_search.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "generate/toy_model.h"

namespace weft {
namespace {

using testing::HasSubstr;
using Ids = std::vector<int32_t>;

Ids make_prompt(size_t length, uint64_t seed, uint64_t vocab_size = 64) {
  Ids prompt(length);
  RandomKey key{seed, 0, 6};
  for (size_t i = 0; i < length; ++i) prompt[i] = static_cast<int32_t>(key.bits(i) % vocab_size);
  return prompt;
}

BeamRequest beam_request(Ids prompt, int64_t num_beams, int64_t max_new_tokens, Ids end_ids = {}) {
  BeamRequest request;
  request.prompt = std::move(prompt);
  request.beams.num_beams = num_beams;
  request.num_results = num_beams;
  request.max_new_tokens = max_new_tokens;
  request.end_ids = std::move(end_ids);
  return request;
}

std::vector<double> log_probabilities(const ToyModel& model, Ids history, const Ids& answer) {
  history.insert(history.end(), answer.begin(), answer.end());
  std::vector<float> logits = model.expected_logits(history);
  double sum = 0;
  for (float logit : logits) sum += std::exp(double{logit});
  std::vector<double> result;
  result.reserve(logits.size());
  for (float logit : logits) result.push_back(logit - std::log(sum));
  return result;
}

bool contains(const Ids& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

struct Hypothesis {
  Ids ids;
  double sum = 0;
  double score = 0;
};

bool has_higher_score(const Hypothesis& a, const Hypothesis& b) {
  return a.score > b.score;
}

/// Every answer there is.
void enumerate(const ToyModel& model,
               const BeamRequest& request,
               const Hypothesis& begun,
               std::vector<Hypothesis>& all) {
  std::vector<double> log_p = log_probabilities(model, request.prompt, begun.ids);
  for (size_t id = 0; id < log_p.size(); ++id) {
    Hypothesis next = begun;
    next.ids.push_back(static_cast<int32_t>(id));
    next.sum += log_p[id];
    auto length = static_cast<double>(next.ids.size());
    if (contains(request.end_ids, next.ids.back()) || static_cast<int64_t>(next.ids.size()) == request.max_new_tokens) {
      next.score = next.sum / std::pow(length, request.beams.length_penalty);
      all.push_back(next);
    } else {
      enumerate(model, request, next, all);
    }
  }
}

TEST(BeamSearch, AWideSearchFindsWhatTryingEverythingFinds) {
  Context context = make_cpu_context(1);
  ToyModel model(4096, 5);
  for (double length_penalty : {-1.0, 0.0, 1.0, 2.0}) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      BeamRequest request = beam_request(make_prompt(1 + seed, seed, 5), 400, 4, {3});
      request.beams.length_penalty = length_penalty;
      std::vector<Hypothesis> expected;
      enumerate(model, request, {}, expected);
      std::sort(expected.begin(), expected.end(), has_higher_score);
      auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_NEAR(found[i].score, expected[i].score, 1e-5 * (1 + std::abs(expected[i].score)));
        bool is_ended = found[i].ids.back() == 3;
        EXPECT_EQ(found[i].finish_reason, is_ended ? FinishReason::end : FinishReason::length);
      }
      EXPECT_EQ(found[0].ids, expected[0].ids) << "penalty " << length_penalty << " seed " << seed;
    }
  }
}

/// AutoRegressiveDecoder.beam_search of bert4keras, step by step.
Hypothesis decode_as_the_seed(const ToyModel& model, const BeamRequest& request) {
  auto width = static_cast<size_t>(request.beams.num_beams);
  std::vector<Hypothesis> beams(1);
  auto is_complete = [&](const Hypothesis& beam) {
    auto count =
        std::count_if(beam.ids.begin(), beam.ids.end(), [&](int32_t id) { return contains(request.end_ids, id); });
    return contains(request.end_ids, beam.ids.back()) && count >= request.beams.min_ends;
  };
  for (int64_t step = 0; step < request.max_new_tokens; ++step) {
    std::vector<Hypothesis> candidates;
    for (const Hypothesis& beam : beams) {
      std::vector<double> log_p = log_probabilities(model, request.prompt, beam.ids);
      for (size_t id = 0; id < log_p.size(); ++id) {
        candidates.push_back({.ids = beam.ids, .score = beam.score + std::log(std::exp(log_p[id]) + 1e-12)});
        candidates.back().ids.push_back(static_cast<int32_t>(id));
      }
    }
    std::sort(candidates.begin(), candidates.end(), has_higher_score);
    candidates.resize(std::min(width, candidates.size()));
    beams = candidates;
    if (step + 1 < std::max<int64_t>(1, request.min_new_tokens)) continue;
    if (is_complete(beams.front())) return beams.front();
    std::erase_if(beams, is_complete);
    width = beams.size();
  }
  return beams.front();
}

TEST(BeamSearch, TheSeedsModeIsItsDecoderStepByStep) {
  Context context = make_cpu_context(1);
  ToyModel model(4096, 12);
  size_t num_ended = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    Ids end_ids = seed % 5 == 4 ? Ids{4, 7} : Ids{4};
    BeamRequest request =
        beam_request(make_prompt(1 + seed % 4, seed, 12), static_cast<int64_t>(1 + seed % 6), 9, end_ids);
    request.num_results = 1;
    request.beams.mode = BeamMode::bert4keras;
    request.beams.min_ends = 1 + static_cast<int64_t>(seed % 2);
    request.min_new_tokens = static_cast<int64_t>(seed % 5);
    Hypothesis expected = decode_as_the_seed(model, request);
    auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].ids, expected.ids) << "seed " << seed;
    EXPECT_NEAR(found[0].score, expected.score, 1e-4);
    num_ended += found[0].finish_reason == FinishReason::end;
  }
  EXPECT_GT(num_ended, 20u);
  EXPECT_LT(num_ended, 110u);
}

std::vector<BeamRequest> mixed_requests() {
  std::vector<BeamRequest> requests;
  for (size_t length : {1u, 40u, 3u, 120u, 17u, 2u, 64u, 5u, 5u}) {
    auto num_beams = static_cast<int64_t>(1 + length % 5);
    requests.push_back(
        beam_request(make_prompt(length, length), num_beams, static_cast<int64_t>(3 + length % 11), {1, 9}));
    requests.back().beams.length_penalty = static_cast<double>(length % 3) - 0.5;
    requests.back().beams.early_stopping = static_cast<EarlyStopping>(length % 3);
    requests.back().sampling.penalty = length % 2 ? 1.2 : 1.0;
    if (length % 4 != 0) continue;
    requests.back().beams.mode = BeamMode::bert4keras;
    requests.back().num_results = 1;
  }
  return requests;
}

class BeamSearchShapes : public testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(BeamSearchShapes, ARequestsResultsDependOnNoOther) {
  auto [max_batch, prefill_chunk] = GetParam();
  Context context = make_cpu_context(1);
  ToyModel model;
  auto requests = mixed_requests();
  BeamSearch search(context, model, {.max_batch = max_batch, .prefill_chunk = prefill_chunk});
  for (int round = 0; round < 2; ++round) {
    auto results = search.run(requests);
    ASSERT_EQ(results.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      auto alone = BeamSearch(context, model, {}).run(std::span(&requests[i], 1))[0];
      ASSERT_EQ(results[i].size(), alone.size());
      for (size_t place = 0; place < alone.size(); ++place) {
        EXPECT_EQ(results[i][place].ids, alone[place].ids) << "request " << i << " place " << place;
        EXPECT_EQ(results[i][place].score, alone[place].score);
      }
    }
  }
  EXPECT_LE(model.largest_width, std::max<int64_t>(max_batch, 8));
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         BeamSearchShapes,
                         testing::Combine(testing::Values(1, 5, 64), testing::Values(1, 7, 512)));

TEST(BeamSearch, OneBeamIsGreedy) {
  Context context = make_cpu_context(1);
  ToyModel model;
  BeamRequest request = beam_request({3, 1, 2}, 1, 12);
  auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].ids, model.expected_answer({3, 1, 2}, 12));
  EXPECT_EQ(found[0].finish_reason, FinishReason::length);
  EXPECT_EQ(found[0].prompt_tokens, 3);
}

TEST(BeamSearch, ResultsAreDistinctSortedAndScoredByTheirOwnTokens) {
  Context context = make_cpu_context(1);
  ToyModel model;
  BeamRequest request = beam_request(make_prompt(9, 4), 6, 20, {5, 6});
  request.beams.length_penalty = 0.7;
  request.num_results = 5;
  auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
  ASSERT_EQ(found.size(), 5u);
  for (size_t i = 0; i < found.size(); ++i) {
    double sum = 0;
    for (size_t place = 0; place < found[i].ids.size(); ++place) {
      Ids before(found[i].ids.begin(), found[i].ids.begin() + static_cast<std::ptrdiff_t>(place));
      sum += log_probabilities(model, request.prompt, before)[static_cast<size_t>(found[i].ids[place])];
    }
    EXPECT_NEAR(found[i].score, sum / std::pow(found[i].ids.size(), 0.7), 1e-4);
    if (i == 0) continue;
    EXPECT_GE(found[i - 1].score, found[i].score);
    EXPECT_NE(found[i - 1].ids, found[i].ids);
  }
}

TEST(BeamSearch, AnswersEndWithEndIdsAndNotTooEarly) {
  Context context = make_cpu_context(1);
  ToyModel model;
  Ids end_ids;
  for (int32_t id = 0; id < 64; id += 3) end_ids.push_back(id);
  for (int64_t least : {0, 4, 7, 20}) {
    BeamRequest request = beam_request(make_prompt(5, 8), 4, 12, end_ids);
    request.min_new_tokens = least;
    auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
    for (const GenerationResult& result : found) {
      auto length = static_cast<int64_t>(result.ids.size());
      bool is_ended = contains(end_ids, result.ids.back());
      EXPECT_EQ(result.finish_reason, is_ended ? FinishReason::end : FinishReason::length);
      if (!is_ended) {
        EXPECT_EQ(length, 12);
      } else {
        EXPECT_GT(length, least);
      }
      for (size_t i = 0; i + 1 < result.ids.size(); ++i) EXPECT_FALSE(contains(end_ids, result.ids[i]));
    }
    if (least == 0) {
      EXPECT_LT(found[0].ids.size(), 6u);
    }
  }
}

TEST(BeamSearch, ForbiddenIdsAndPenaltiesAreHeeded) {
  Context context = make_cpu_context(1);
  ToyModel model(4096, 12);
  BeamRequest request = beam_request({1}, 4, 11);
  request.sampling.forbidden_ids = {2, 7};
  request.sampling.penalty = 50;
  auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
  // Nine ids are neither forbidden nor in the prompt: none comes twice before all have come.
  Ids first(found[0].ids.begin(), found[0].ids.begin() + 9);
  std::sort(first.begin(), first.end());
  EXPECT_EQ(std::adjacent_find(first.begin(), first.end()), first.end());
  EXPECT_FALSE(contains(found[0].ids, 2) || contains(found[0].ids, 7));
  request.sampling.forbidden_ids.clear();
  for (int32_t id = 0; id < 12; ++id) request.sampling.forbidden_ids.push_back(id);
  EXPECT_THROW(BeamSearch(context, model, {}).run(std::span(&request, 1)), Error);
}

TEST(BeamSearch, ThePromptIsComputedOnce) {
  Context context = make_cpu_context(1);
  ToyModel model;
  BeamRequest request = beam_request(make_prompt(100, 1), 5, 7);
  BeamSearch search(context, model, {.max_batch = 1});
  search.run(std::span(&request, 1));
  EXPECT_EQ(model.num_computed, 100 + 5 * 6);
  EXPECT_EQ(search.stats().prompt_tokens, 100);
  EXPECT_EQ(search.stats().new_tokens, 1 + 5 * 6);
}

TEST(BeamSearch, TheContextEndsAnswers) {
  Context context = make_cpu_context(1);
  ToyModel model(32);
  BeamRequest request = beam_request(make_prompt(28, 1), 3, 100);
  auto found = BeamSearch(context, model, {}).run(std::span(&request, 1))[0];
  ASSERT_EQ(found.size(), 3u);
  for (const GenerationResult& result : found) EXPECT_EQ(result.ids.size(), 4u);
}

TEST(BeamSearch, AnInterruptedSearchGivesWhatThereIs) {
  Context context = make_cpu_context(1);
  ToyModel model;
  std::vector<BeamRequest> requests(3, beam_request(make_prompt(10, 3), 4, 20));
  BeamSearch search(context, model, {.max_batch = 8, .prefill_chunk = 64});
  int step = 0;
  BeamSearchHooks hooks;
  hooks.should_stop = [&] { return ++step > 5; };
  auto results = search.run(requests, hooks);
  ASSERT_EQ(results[0].size(), 4u);
  EXPECT_EQ(results[0][0].ids.size(), 5u);
  EXPECT_EQ(results[0][0].finish_reason, FinishReason::interrupted);
  EXPECT_TRUE(results[2].empty());
  auto whole = search.run(requests);
  EXPECT_EQ(whole[2][3].ids.size(), 20u);
}

std::string usage_message(const BeamRequest& request) {
  Context context = make_cpu_context(1);
  ToyModel model;
  try {
    BeamSearch(context, model, {}).run(std::span(&request, 1));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(BeamSearch, OptionsWithoutAMeaningAreRefused) {
  BeamRequest request = beam_request({1}, 4, 5);
  request.num_results = 5;
  EXPECT_THAT(usage_message(request), HasSubstr("as many answers as beams"));
  request = beam_request({1}, 0, 5);
  EXPECT_THAT(usage_message(request), HasSubstr("at least 1 beam"));
  request = beam_request({1}, 2, 5);
  request.beams.mode = BeamMode::bert4keras;
  EXPECT_THAT(usage_message(request), HasSubstr("single answer"));
  request = beam_request({1}, 2, 5);
  request.beams.length_penalty = std::numeric_limits<double>::infinity();
  EXPECT_THAT(usage_message(request), HasSubstr("length penalty"));
  request = beam_request({1}, 2, 5);
  request.sampling.temperature = 0;
  EXPECT_THAT(usage_message(request), HasSubstr("temperature"));
  request = beam_request({1}, 2, 0);
  EXPECT_THAT(usage_message(request), HasSubstr("max-new-tokens"));
}

/// A beam that ends at once with a score of −1, beside one that goes on with −`running`.
bool is_finished_after_a_step(EarlyStopping early_stopping, double length_penalty, double running) {
  BeamOptions options{.num_beams = 1, .length_penalty = length_penalty, .early_stopping = early_stopping};
  BeamLimits limits{.max_new_tokens = 10, .end_ids = {0}};
  BeamState state(options, limits);
  state.advance(std::vector<BeamCandidate>{{-1.0, 0, 0}, {-running, 0, 5}});
  return state.is_finished();
}

TEST(BeamSearch, EarlyStoppingSaysWhatMayStillComeOfTheBeams) {
  // At once, whatever runs.
  EXPECT_TRUE(is_finished_after_a_step(EarlyStopping::yes, 1.0, 0.5));
  // By the present length: −1.5 / 1 is worse than −1, −0.5 better.
  EXPECT_TRUE(is_finished_after_a_step(EarlyStopping::no, 1.0, 1.5));
  EXPECT_FALSE(is_finished_after_a_step(EarlyStopping::no, 1.0, 0.5));
  // At the greatest length −1.5 / 10 would be better, unless the length does not matter.
  EXPECT_FALSE(is_finished_after_a_step(EarlyStopping::never, 1.0, 1.5));
  EXPECT_TRUE(is_finished_after_a_step(EarlyStopping::never, 1.0, 11.0));
  EXPECT_TRUE(is_finished_after_a_step(EarlyStopping::never, 0.0, 1.5));
}

}  // namespace
}  // namespace weft
