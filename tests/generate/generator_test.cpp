#include "generate/generator.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "generate/toy_model.h"

namespace weft {
namespace {

using testing::HasSubstr;

std::vector<int32_t> make_prompt(size_t length, uint64_t seed) {
  std::vector<int32_t> prompt(length);
  RandomKey key{seed, 0, 5};
  for (size_t i = 0; i < length; ++i) prompt[i] = static_cast<int32_t>(key.bits(i) % 64);
  return prompt;
}

GenerationRequest greedy_request(std::vector<int32_t> prompt, int64_t max_new_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  return request;
}

/// Prompts of very different lengths, some alike at their beginning, some equal, with answers of different lengths.
std::vector<GenerationRequest> mixed_requests() {
  std::vector<GenerationRequest> requests;
  for (size_t length : {1u, 40u, 3u, 120u, 17u, 2u, 64u, 5u}) {
    requests.push_back(greedy_request(make_prompt(length, length), static_cast<int64_t>(3 + length % 11)));
  }
  std::vector<int32_t> alike = make_prompt(120, 120);
  alike[100] = (alike[100] + 1) % 64;
  requests.push_back(greedy_request(alike, 9));
  for (int copy = 0; copy < 3; ++copy) requests.push_back(greedy_request(make_prompt(50, 50), 6));
  for (size_t i = 0; i < requests.size(); ++i) requests[i].sequence = i;
  return requests;
}

std::string message_of(const std::function<void()>& body, ExitCode code) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(Generator, GreedyAnswerIsWhatTheWholeHistoryGives) {
  Context context = make_cpu_context(1);
  ToyModel model;
  Generator generator(context, model, {});
  auto results = generator.run(std::vector{greedy_request({3, 1, 2}, 12)});
  EXPECT_EQ(results[0].ids, model.expected_answer({3, 1, 2}, 12));
  EXPECT_EQ(results[0].finish_reason, FinishReason::length);
  EXPECT_EQ(results[0].prompt_tokens, 3);
}

class GeneratorShapes : public testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(GeneratorShapes, AnswersDependOnNeitherBatchNorChunk) {
  auto [max_batch, prefill_chunk] = GetParam();
  Context context = make_cpu_context(1);
  ToyModel model;
  auto requests = mixed_requests();
  Generator generator(context, model, {.max_batch = max_batch, .prefill_chunk = prefill_chunk});
  for (int round = 0; round < 2; ++round) {
    auto results = generator.run(requests);
    ASSERT_EQ(results.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      auto length = static_cast<size_t>(requests[i].max_new_tokens);
      EXPECT_EQ(results[i].ids, model.expected_answer(requests[i].prompt, length))
          << "request " << i << " round " << round;
    }
  }
  EXPECT_LE(model.largest_width, max_batch);
  EXPECT_LE(model.largest_batch, max_batch + prefill_chunk);
}

TEST_P(GeneratorShapes, DrawsDependOnNeitherBatchNorChunk) {
  auto [max_batch, prefill_chunk] = GetParam();
  Context context = make_cpu_context(1);
  ToyModel model;
  auto requests = mixed_requests();
  for (auto& request : requests) {
    request.sampling.greedy = false;
    request.sampling.top_p = 0.9;
    request.sampling.penalty = 1.2;
    request.sampling.seed = 11;
  }
  auto results = Generator(context, model, {.max_batch = max_batch, .prefill_chunk = prefill_chunk}).run(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    auto alone = Generator(context, model, {.max_batch = 1}).run(std::span(&requests[i], 1));
    EXPECT_EQ(results[i].ids, alone[0].ids) << "request " << i;
  }
  EXPECT_NE(results[9].ids, results[10].ids);  // equal prompts, other sequence numbers
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         GeneratorShapes,
                         testing::Combine(testing::Values(1, 2, 5, 64), testing::Values(1, 7, 64, 512)));

TEST(Generator, EqualPromptsAreComputedOnce) {
  Context context = make_cpu_context(1);
  ToyModel model;
  std::vector<GenerationRequest> requests(4, greedy_request(make_prompt(100, 1), 2));
  Generator generator(context, model, {.max_batch = 4});
  generator.run(requests);
  // Each computes its last prompt token and its first answer token; one computes the other 99.
  EXPECT_EQ(model.num_computed, 99 + 4 * 2);
  EXPECT_EQ(generator.stats().reused_tokens, 3 * 99);
  EXPECT_EQ(generator.stats().new_tokens, 8);
}

TEST(Generator, AConversationComputesOnlyWhatIsNew) {
  Context context = make_cpu_context(1);
  ToyModel model;
  Generator generator(context, model, {.max_batch = 1});
  std::vector<int32_t> history = make_prompt(30, 2);
  for (int turn = 0; turn < 6; ++turn) {
    auto result = generator.run(std::vector{greedy_request(history, 40)})[0];
    ASSERT_EQ(result.ids, model.expected_answer(history, 40)) << "turn " << turn;
    history.insert(history.end(), result.ids.begin(), result.ids.end());
    auto message = make_prompt(10, 100 + static_cast<uint64_t>(turn));
    history.insert(history.end(), message.begin(), message.end());
  }
  // Every token once, but the last answer's last one, which nobody asked to go on from; the cache has grown several
  // times meanwhile.
  EXPECT_EQ(model.num_computed, 30 + 6 * 40 + 5 * 10 - 1);
}

TEST(Generator, AnInterruptedRunLeavesAUsableCache) {
  Context context = make_cpu_context(1);
  ToyModel model;
  Generator generator(context, model, {.max_batch = 2, .prefill_chunk = 16});
  auto requests = mixed_requests();
  for (int stop_at = 1; stop_at < 12; ++stop_at) {
    int step = 0;
    GenerationHooks hooks;
    hooks.should_stop = [&] { return ++step > stop_at; };
    auto results = generator.run(requests, hooks);
    EXPECT_EQ(results.back().finish_reason, FinishReason::interrupted);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(results[i].ids, model.expected_answer(requests[i].prompt, results[i].ids.size()));
    }
  }
  auto results = generator.run(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(results[i].ids, model.expected_answer(requests[i].prompt, results[i].ids.size()));
    EXPECT_EQ(results[i].finish_reason, FinishReason::length);
  }
}

TEST(Generator, EndsAtAnyOfTheEndIds) {
  Context context = make_cpu_context(1);
  ToyModel model;
  auto expected = model.expected_answer({9, 8}, 20);
  GenerationRequest request = greedy_request({9, 8}, 20);
  request.end_ids = {expected[6], 63, expected[4]};
  auto first = std::find_first_of(expected.begin(), expected.end(), request.end_ids.begin(), request.end_ids.end());
  std::vector<int32_t> until_end(expected.begin(), first + 1);
  auto result = Generator(context, model, {}).run(std::span(&request, 1))[0];
  EXPECT_EQ(result.ids, until_end);
  EXPECT_EQ(result.finish_reason, FinishReason::end);

  request.min_new_tokens = 15;
  result = Generator(context, model, {}).run(std::span(&request, 1))[0];
  EXPECT_GE(result.ids.size(), 15u);
  EXPECT_NE(result.ids, expected);
}

TEST(Generator, AnswersEndAtTheContextsEnd) {
  Context context = make_cpu_context(1);
  ToyModel model(32);
  auto result = Generator(context, model, {}).run(std::vector{greedy_request(make_prompt(30, 1), 100)})[0];
  EXPECT_EQ(result.ids.size(), 2u);
  EXPECT_EQ(result.finish_reason, FinishReason::length);
}

TEST(Generator, APromptBeyondTheContextIsRefusedBeforeAnyWork) {
  Context context = make_cpu_context(1);
  ToyModel model(32);
  std::vector requests = {greedy_request({1}, 4), greedy_request(make_prompt(33, 1), 4)};
  std::string message = message_of([&] { Generator(context, model, {}).run(requests); }, ExitCode::bad_input);
  EXPECT_THAT(message, testing::AllOf(HasSubstr("prompt 2"), HasSubstr("33"), HasSubstr("32"), HasSubstr("shorten")));
  EXPECT_EQ(model.num_computed, 0);
}

TEST(Generator, UnusableRequestsAreRefused) {
  Context context = make_cpu_context(1);
  ToyModel model;
  auto refuse = [&](const GenerationRequest& request, ExitCode code) {
    return message_of([&] { Generator(context, model, {}).run(std::span(&request, 1)); }, code);
  };
  EXPECT_THAT(refuse(greedy_request({}, 4), ExitCode::bad_input), HasSubstr("no tokens"));
  EXPECT_THAT(refuse(greedy_request({1, 64}, 4), ExitCode::bad_input), HasSubstr("64"));
  EXPECT_THAT(refuse(greedy_request({-1}, 4), ExitCode::bad_input), HasSubstr("-1"));
  EXPECT_THAT(refuse(greedy_request({1}, 0), ExitCode::usage), HasSubstr("max-new-tokens"));
  GenerationRequest with_stop = greedy_request({1}, 4);
  with_stop.stop_strings = {"x"};
  EXPECT_THAT(refuse(with_stop, ExitCode::usage), HasSubstr("tokenizer"));
  EXPECT_THROW(Generator(context, model, {.max_batch = 0}), Error);
}

TEST(Generator, TheSeedsPaddedRowsArePenalisedAsItDoes) {
  // With every id's logit positive, a penalty of 1e6 takes from the greedy choice whatever occurred; the unwritten
  // zeros count as id 0.
  Context context = make_cpu_context(1);
  ToyModel model;
  GenerationRequest request = greedy_request({1, 2, 3}, 61);
  request.sampling.penalty = 1e6;
  auto ids = Generator(context, model, {}).run(std::span(&request, 1))[0].ids;
  std::vector<int32_t> sorted(ids);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end()) << "no id twice";
  EXPECT_THAT(ids, testing::Contains(0));
  request.sampling.padded_length = 64;
  EXPECT_THAT(Generator(context, model, {}).run(std::span(&request, 1))[0].ids, testing::Not(testing::Contains(0)));
}

}  // namespace
}  // namespace weft
