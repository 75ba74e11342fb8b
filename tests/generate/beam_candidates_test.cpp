#include "generate/beam_candidates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/random.h"

namespace weft {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

std::vector<float> random_row(size_t width, uint64_t seed, float scale) {
  RandomKey key{seed, 0, 2};
  std::vector<float> row(width);
  for (size_t i = 0; i < width; ++i) row[i] = scale * (key.uniform(i) - 0.5f);
  return row;
}

TEST(LogSoftmax, IsThatOfDoublesAtEveryWidth) {
  for (size_t width : {1u, 2u, 63u, 64u, 1000u, 1024u, 1025u, 5000u, 50257u}) {
    for (double temperature : {1.0, 0.5, 2.0}) {
      std::vector<float> row = random_row(width, width, 40);
      std::sort(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(width / 2));  // the maximum keeps growing
      if (width > 2) row[1] = kNothing;
      std::vector<float> found = row;
      log_softmax(found, temperature);
      double sum = 0;
      for (float value : row) sum += std::exp(value / temperature);
      for (size_t i = 0; i < width; ++i) {
        if (row[i] == kNothing) {
          EXPECT_EQ(found[i], kNothing);
        } else {
          EXPECT_NEAR(found[i], row[i] / temperature - std::log(sum), 1e-5) << width << " " << i;
        }
      }
    }
  }
}

TEST(LogSoftmax, OfManyRowsIsThatOfEachOnAnyNumberOfThreads) {
  constexpr size_t kWidth = 1030;
  std::vector<double> temperatures = {1.0, 0.5, 2.0, 1.0, 3.0};
  std::vector<float> expected, logits;
  for (size_t row = 0; row < temperatures.size(); ++row) {
    std::vector<float> values = random_row(kWidth, row, 40);
    logits.insert(logits.end(), values.begin(), values.end());
    log_softmax(values, temperatures[row]);
    expected.insert(expected.end(), values.begin(), values.end());
  }
  for (int threads : {1, 2, 3}) {
    std::vector<float> found = logits;
    log_softmax_rows(found, temperatures, threads);
    EXPECT_EQ(found, expected) << threads;
  }
  std::fill(logits.begin() + kWidth, logits.begin() + 2 * kWidth, kNothing);
  EXPECT_THROW(log_softmax_rows(logits, temperatures, 2), Error);
}

TEST(LogSoftmax, RefusesRowsWithoutAFiniteNumber) {
  std::vector<float> row(10, kNothing);
  EXPECT_THROW(log_softmax(row, 1.0), Error);
  std::vector<float> broken(10, std::numeric_limits<float>::quiet_NaN());
  EXPECT_THROW(log_softmax(broken, 1.0), Error);
}

std::vector<BeamCandidate> sorted_all(const std::vector<std::vector<float>>& rows,
                                      const std::vector<double>& scores,
                                      BeamScore kind) {
  std::vector<BeamCandidate> all;
  for (size_t beam = 0; beam < rows.size(); ++beam) {
    for (size_t id = 0; id < rows[beam].size(); ++id) {
      float value = rows[beam][id];
      if (!(value > kNothing)) continue;
      double score = kind == BeamScore::rounded ? double{static_cast<float>(scores[beam]) + value}
                                                : scores[beam] + std::log(std::exp(double{value}) + 1e-12);
      all.push_back({score, static_cast<int32_t>(beam), static_cast<int32_t>(id)});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  return all;
}

TEST(BeamCandidates, AreTheFirstOfAllSorted) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    BeamScore kind = seed % 2 ? BeamScore::floored : BeamScore::rounded;
    size_t width = std::vector<size_t>{1, 5, 64, 65, 700, 3000}[seed % 6];
    std::vector<std::vector<float>> rows;
    std::vector<double> scores;
    for (size_t beam = 0; beam < 1 + seed % 4; ++beam) {
      rows.push_back(random_row(width, seed * 10 + beam, 20));
      // Ties, impossible tokens and broken numbers.
      if (kind == BeamScore::rounded) {
        for (float& value : rows.back()) value = std::round(value * 4) / 4;
      }
      if (width > 4) rows.back()[2] = kNothing;
      log_softmax(rows.back(), 1.0);
      if (width > 4) rows.back()[3] = std::numeric_limits<float>::quiet_NaN();
      scores.push_back(-static_cast<double>(beam));
    }
    auto expected = sorted_all(rows, scores, kind);
    for (size_t capacity : {1u, 2u, 8u, 100u, 20000u}) {
      BeamCandidates candidates;
      for (int round = 0; round < 2; ++round) {
        candidates.reset(capacity, kind);
        for (size_t beam = 0; beam < rows.size(); ++beam)
          candidates.add(static_cast<int32_t>(beam), scores[beam], rows[beam]);
        auto found = candidates.sort();
        ASSERT_EQ(found.size(), std::min(capacity, expected.size()));
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_NEAR(found[i].score, expected[i].score, 1e-5);
          if (kind == BeamScore::rounded) {
            ASSERT_EQ(found[i].beam, expected[i].beam) << "seed " << seed << " place " << i;
            ASSERT_EQ(found[i].id, expected[i].id) << "seed " << seed << " place " << i;
          }
        }
      }
    }
  }
}

TEST(BeamCandidates, TheSeedsFloorLiftsWhatIsImpossibleInPractice) {
  std::vector<float> row = {0.0f, -200.0f};
  BeamCandidates candidates;
  candidates.reset(2, BeamScore::floored);
  candidates.add(0, -1.0, row);
  auto found = candidates.sort();
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NEAR(found[0].score, -1.0, 1e-6);
  EXPECT_NEAR(found[1].score, -1.0 + std::log(1e-12), 1e-5);
}

}  // namespace
}  // namespace weft
