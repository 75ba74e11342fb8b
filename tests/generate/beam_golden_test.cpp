// Beam searches that Hugging Face transformers made of the same checkpoints (make_beam_golden.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "generate/beam_search.h"
#include "models/registry.h"
#include "parallel/thread_communicator.h"
#include "support/paths.h"

namespace weft {
namespace {

using nlohmann::json;

const json& golden() {
  static const json all = json::parse(std::ifstream(test_data("beam/golden.json")));
  return all;
}

EarlyStopping early_stopping_of(const std::string& name) {
  if (name == "yes") return EarlyStopping::yes;
  return name == "no" ? EarlyStopping::no : EarlyStopping::never;
}

std::vector<BeamRequest> requests_of(const json& golden_case, const json& search, const ModelInfo& info) {
  std::vector<BeamRequest> requests;
  for (const json& prompt : golden_case.at("prompts")) {
    BeamRequest request;
    set_text(request, info, prompt.get<std::vector<int32_t>>());
    request.beams.num_beams = search.at("num_beams");
    request.beams.length_penalty = search.at("length_penalty");
    request.beams.early_stopping = early_stopping_of(search.at("early_stopping"));
    request.num_results = search.at("num_results");
    request.sampling.penalty = search.value("penalty", 1.0);
    request.sampling.forbidden_ids = search.value("forbidden_ids", std::vector<int32_t>());
    request.max_new_tokens = golden_case.at("max_new_tokens");
    request.min_new_tokens = search.value("min_new_tokens", 0);
    request.end_ids = search.at("end_ids").get<std::vector<int32_t>>();
    requests.push_back(std::move(request));
  }
  return requests;
}

void expect_results(const std::vector<BeamResults>& found, const json& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t prompt = 0; prompt < found.size(); ++prompt) {
    SCOPED_TRACE(testing::Message() << "prompt " << prompt);
    ASSERT_EQ(found[prompt].size(), expected[prompt].size());
    for (size_t place = 0; place < found[prompt].size(); ++place) {
      const json& answer = expected[prompt][place];
      EXPECT_EQ(found[prompt][place].ids, answer.at("ids").get<std::vector<int32_t>>()) << "place " << place;
      double score = answer.at("score");
      EXPECT_NEAR(found[prompt][place].score, score, 1e-4 * (1 + std::abs(score))) << "place " << place;
    }
  }
}

void run_case(const json& golden_case, int num_ranks) {
  std::string folder = test_data("hf/") + golden_case.at("model").get<std::string>();
  OpenedModel opened = open_model({.path = folder, .family = {}, .compat = {}});
  run_thread_ranks(num_ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    auto model = opened.make({.rank = communicator->rank(), .size = num_ranks});
    load_parameters(context, opened, *model, {.dtype = DType::f32});
    BeamSearch search(context, *model, {.max_batch = 32, .prefill_chunk = 16});
    for (const json& wanted : golden_case.at("searches")) {
      auto found = search.run(requests_of(golden_case, wanted, model->info()));
      SCOPED_TRACE(testing::Message() << golden_case.at("model") << ", " << wanted.at("num_beams") << " beams, penalty "
                                      << wanted.at("length_penalty") << ", early stopping "
                                      << wanted.at("early_stopping") << ", rank " << communicator->rank());
      expect_results(found, wanted.at("results"));
    }
  });
}

TEST(BeamGolden, DecodersFindWhatTransformersFinds) {
  ASSERT_GE(golden().at("decoders").size(), 5u);
  for (const json& golden_case : golden().at("decoders")) run_case(golden_case, 1);
}

TEST(BeamGolden, EncoderDecodersFindWhatTransformersFinds) {
  ASSERT_GE(golden().at("encoder_decoders").size(), 4u);
  for (const json& golden_case : golden().at("encoder_decoders")) run_case(golden_case, 1);
}

/// A prompt that sees itself wholly, an answer of another segment.
TEST(BeamGolden, OneBeamOfUniLmIsGreedyAndABatchIsItsRowsAlone) {
  OpenedModel opened =
      open_model({.path = test_data("hf/roformer"), .family = {}, .compat = {}, .application = "unilm"});
  Context context = make_cpu_context(1);
  auto model = opened.make({});
  load_parameters(context, opened, *model, {.dtype = DType::f32});
  std::vector<BeamRequest> requests(3);
  std::vector<GenerationRequest> greedy(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    for (size_t token = 0; token < 3 + 4 * i; ++token)
      requests[i].prompt.push_back(static_cast<int32_t>(20 + 3 * token + i));
    greedy[i].prompt = requests[i].prompt;
    greedy[i].max_new_tokens = requests[i].max_new_tokens = 8;
    requests[i].beams.num_beams = 1;
  }
  BeamSearch search(context, *model, {.max_batch = 16, .prefill_chunk = 8});
  auto expected = Generator(context, *model, {}).run(greedy);
  auto found = search.run(requests);
  for (size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(found[i][0].ids, expected[i].ids) << i;
  for (BeamRequest& request : requests) request.beams.num_beams = request.num_results = 4;
  found = search.run(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    auto alone = search.run(std::span(&requests[i], 1))[0];
    ASSERT_EQ(found[i].size(), alone.size());
    for (size_t place = 0; place < alone.size(); ++place) EXPECT_EQ(found[i][place].ids, alone[place].ids);
  }
}

TEST(BeamGolden, TwoRanksFindTheSame) {
  run_case(golden().at("decoders")[0], 2);
  run_case(golden().at("encoder_decoders")[0], 2);
}

}  // namespace
}  // namespace weft
