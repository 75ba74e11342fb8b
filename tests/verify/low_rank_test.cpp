#include "verify/low_rank.h"

#include <gtest/gtest.h>

#include "core/random.h"

namespace weft {
namespace {

std::vector<float> random_values(size_t count, uint64_t seed) {
  RandomKey key{.seed = seed};
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = key.uniform(i) - 0.5f;
  return values;
}

/// Σ c[i, j] · (A·B)[i, j], a loss whose gradient for the merged matrix is c.
double loss(const std::vector<float>& c, const std::vector<float>& a, const std::vector<float>& b) {
  constexpr size_t rows = 5, rank = 3, columns = 4;
  double sum = 0;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) {
      for (size_t r = 0; r < rank; ++r) {
        sum += static_cast<double>(c[i * columns + j]) * a[i * rank + r] * b[r * columns + j];
      }
    }
  }
  return sum;
}

TEST(LowRank, GradientsOfTheFactorsEqualCentredDifferences) {
  LowRankFactors factors;
  factors.a = {.shape = {5, 3}, .values = random_values(15, 1)};
  factors.b = {.shape = {3, 4}, .values = random_values(12, 2)};
  std::vector<float> c = random_values(20, 3);
  LowRankGradients gradients = low_rank_gradients(factors, c);
  constexpr float kStep = 0.25f;  // the loss is linear in each factor, so a large step is exact
  for (size_t i = 0; i < 15; ++i) {
    std::vector<float> up = factors.a.values, down = factors.a.values;
    up[i] += kStep;
    down[i] -= kStep;
    EXPECT_NEAR(gradients.a[i], (loss(c, up, factors.b.values) - loss(c, down, factors.b.values)) / (2 * kStep), 1e-6);
  }
  for (size_t i = 0; i < 12; ++i) {
    std::vector<float> up = factors.b.values, down = factors.b.values;
    up[i] += kStep;
    down[i] -= kStep;
    EXPECT_NEAR(gradients.b[i], (loss(c, factors.a.values, up) - loss(c, factors.a.values, down)) / (2 * kStep), 1e-6);
  }
}

}  // namespace
}  // namespace weft
