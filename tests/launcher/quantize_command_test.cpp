// --quantize of the built program, on a tiny real checkpoint.
#include <cmath>
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
