#include "verify/comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace weft {
namespace {

Comparison compare(std::vector<float> values, std::vector<float> reference, Tolerance tolerance) {
  Difference difference;
  difference.add(values, reference);
  return {.name = "x",
          .category = "logits",
          .tolerance = tolerance,
          .max_abs = difference.max_abs(),
          .max_rel = difference.max_rel(),
          .relative_rms = difference.relative_rms(),
          .count = difference.count(),
          .note = {}};
}

TEST(Comparison, MeasuresAreWhatTheirNamesSay) {
  Difference difference;
  difference.add(std::vector<float>{1.0f, 2.5f}, std::vector<float>{1.0f, 2.0f});
  difference.add(std::vector<float>{-4.0f}, std::vector<float>{-4.0f});
  EXPECT_DOUBLE_EQ(difference.max_abs(), 0.5);
  EXPECT_DOUBLE_EQ(difference.max_rel(), 0.125);
  EXPECT_DOUBLE_EQ(difference.relative_rms(), 0.5 / std::sqrt(21.0));
  EXPECT_EQ(difference.count(), 3);
}

TEST(Comparison, ReferenceOfZerosIsHeldAgainstTheFloor) {
  Comparison row = compare({1e-8f}, {0.0f}, {Measure::of_maximum, 1e-4});
  EXPECT_NEAR(row.max_rel, 1e-5, 1e-10);
  EXPECT_TRUE(row.passed());
  EXPECT_FALSE(compare({1e-6f}, {0.0f}, {Measure::of_maximum, 1e-4}).passed());
}

TEST(Comparison, NotANumberNeverPasses) {
  float nan = std::numeric_limits<float>::quiet_NaN();
  for (Measure measure : {Measure::absolute, Measure::of_maximum, Measure::relative_rms}) {
    EXPECT_FALSE(compare({nan, 1.0f}, {1.0f, 1.0f}, {measure, 1e9}).passed());
    EXPECT_FALSE(compare({1.0f, 1.0f}, {1.0f, nan}, {measure, 1e9}).passed());
  }
}

TEST(Comparison, AReportThatComparedNothingFails) {
  VerifyReport report;
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(report.summary(), "nothing to compare");
  report.compared.push_back(compare({}, {}, {Measure::absolute, 1.0}));
  EXPECT_FALSE(report.passed()) << "no element was compared";
}

TEST(Comparison, SummaryCountsByCategory) {
  VerifyReport report;
  report.compared.push_back(compare({1.0f}, {1.0f}, {Measure::absolute, 0.1}));
  report.compared.push_back(compare({2.0f}, {1.0f}, {Measure::absolute, 0.1}));
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(report.summary(), "compared 2 logits: 1 of 2 FAILED");
  report.compared.pop_back();
  EXPECT_EQ(report.summary(), "compared 1 logits: all within tolerance");
}

TEST(Comparison, JsonHoldsEveryNumberAndNullForNotANumber) {
  VerifyReport report;
  report.compared.push_back(compare({std::numeric_limits<float>::quiet_NaN()}, {1.0f}, {Measure::relative_rms, 0.25}));
  report.not_compared.push_back({"outputs/x", "why"});
  nlohmann::json parsed = nlohmann::json::parse(to_json(report));
  EXPECT_FALSE(parsed["passed"]);
  EXPECT_TRUE(parsed["compared"][0]["max_abs"].is_null());
  EXPECT_EQ(parsed["compared"][0]["measure"], "relative_rms");
  EXPECT_EQ(parsed["compared"][0]["tolerance"], 0.25);
  EXPECT_EQ(parsed["not_compared"][0]["reason"], "why");
}

}  // namespace
}  // namespace weft
