// --quantize of the built program, on a tiny real checkpoint.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/command_test.h"

namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using weft::testing::Outcome;

class Quantize : public weft::testing::TinyLlamaTest {};

const std::string kGenerate =
    "generate --model tiny_llama --quiet --ids '135 109 109 31 96' '10 52' --ignore-end --max-new-tokens 24 "
    "--quantize ";

TEST_F(Quantize, GreedyAnswersAreTheSameOnAnyNumberOfThreads) {
  for (const char* quantization : {"int8", "int4"}) {
    std::string line = kGenerate + quantization;
    Outcome one = weft(line + " --threads 1");
    EXPECT_EQ(one.exit_code, 0) << one.err;
    EXPECT_EQ(one.err, "");
    EXPECT_EQ(std::count(one.out.begin(), one.out.end(), ' '), 2 * 23);
    EXPECT_EQ(weft(line + " --threads 2").out, one.out) << quantization;
    EXPECT_EQ(weft(line + " --device guarded").out, one.out) << quantization;
  }
}

TEST_F(Quantize, TwoRanksShareTheWeights) {
  for (const char* quantization : {"int8", "int4"}) {
    Outcome first = weft("launch -n 2 -- " + kGenerate + quantization);
    EXPECT_EQ(first.exit_code, 0) << first.err;
    EXPECT_EQ(std::count(first.out.begin(), first.out.end(), ' '), 2 * 23);
    EXPECT_EQ(weft("launch -n 2 -- " + kGenerate + quantization).out, first.out) << quantization;
  }
}

TEST_F(Quantize, PerplexityIsCloseToThatOfWholeWeights) {
  auto nll = [&](const std::string& quantization) {
    Outcome outcome =
        weft("perplexity --model tiny_llama --dtype f32 --quiet --json --text - --quantize " + quantization,
             "the quick fox jumps over the lazy dog and the dog sleeps");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out).at("nll").get<double>();
  };
  double whole = nll("none");
  EXPECT_NEAR(nll("int8"), whole, 0.02 * whole);
  EXPECT_NEAR(nll("int4"), whole, 0.2 * whole);
  EXPECT_NE(nll("int8"), whole);
}

TEST_F(Quantize, PlansAndBoundsCountFewerBytes) {
  auto planned = [&](const std::string& quantization) {
    Outcome outcome = weft("plan --model tiny_llama --json --quantize " + quantization);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    json object = json::parse(outcome.out);
    EXPECT_EQ(object.at("quantize"), quantization);
    return object.at("bytes_per_rank").at("weights").get<int64_t>();
  };
  EXPECT_LT(planned("int8"), 0.75 * static_cast<double>(planned("none")));
  EXPECT_LT(planned("int4"), planned("int8"));
  Outcome bench = weft("bench decode --model tiny_llama --new-tokens 8 --json --quiet --quantize int8");
  ASSERT_EQ(bench.exit_code, 0) << bench.err;
  json object = json::parse(bench.out);
  EXPECT_EQ(object.at("quantize"), "int8");
  EXPECT_LE(object.at("weight_bytes"), planned("int8"));
}

TEST_F(Quantize, AnAdapterIsTrainedOverRoundedWeightsAndMergedIntoWholeOnes) {
  std::ofstream text(folder_ / "text.txt");
  for (int i = 0; i < 60; ++i) text << "the quick fox jumps over the lazy dog and the dog sleeps\n";
  text.close();
  std::ofstream(folder_ / "run.textproto") << R"(
model { path: "tiny_llama" }
data { sources { path: "text.txt" } sequence_length: 32 }
train { steps: 12 batch_size: 4 learning_rate: 2e-2 }
lora { rank: 4 quantize: INT4 }
output { directory: "run" tensorboard: false report: false }
)";
  const std::string line = "train run.textproto --quiet --threads 1 --set output.directory=";
  ASSERT_EQ(weft(line + "rounded").exit_code, 0) << weft::testing::contents(folder_ / "err");
  ASSERT_EQ(weft(line + "whole --set lora.quantize=NONE").exit_code, 0);
  auto losses = [&](const std::string& run) {
    std::ifstream file(folder_ / run / "metrics.jsonl");
    std::vector<double> values;
    for (std::string one; std::getline(file, one);) values.push_back(json::parse(one).at("loss"));
    return values;
  };
  std::vector<double> rounded = losses("rounded"), whole = losses("whole");
  ASSERT_EQ(rounded.size(), 12u);
  EXPECT_LT(rounded.back(), 0.9 * rounded.front());
  EXPECT_NE(rounded.front(), whole.front());
  EXPECT_NEAR(rounded.front(), whole.front(), 0.2 * whole.front());
  const std::string adapter = "--adapter rounded/checkpoints/step-00000012";
  ASSERT_EQ(weft("merge --model tiny_llama --quiet --out merged " + adapter).exit_code, 0);
  // Beside the whole weights the adapter gives what it gives within them.
  auto nll = [&](const std::string& model) {
    Outcome outcome = weft("perplexity --dtype f32 --quiet --json --text - --model " + model,
                           "the quick fox jumps over the lazy dog");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out).at("nll").get<double>();
  };
  EXPECT_NEAR(nll("merged"), nll("tiny_llama " + adapter), 0.02);
  EXPECT_LT(nll("merged"), nll("tiny_llama") - 0.1);
}

TEST_F(Quantize, IsRefusedWhereItCannotBe) {
  expect_one_line_error(weft(kGenerate + "int5"), 2, AllOf(HasSubstr("--quantize"), HasSubstr("int5")));
  expect_one_line_error(weft("bench train --model tiny_llama --quiet --quantize int8"),
                        2,
                        AllOf(HasSubstr("--quantize int8"), HasSubstr("training")));
  expect_one_line_error(weft("plan --train --model tiny_llama --quantize int4"),
                        2,
                        AllOf(HasSubstr("--quantize int4"), HasSubstr("training")));
}

}  // namespace
