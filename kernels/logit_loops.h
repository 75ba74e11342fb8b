// Loops over a row of logits, in pieces of kLogitBlock values that stay in the first cache. Files with these loops are
// compiled with -fno-trapping-math, which lets the comparisons become vector instructions.
#pragma once

#include <cstddef>
#include <limits>

#include "kernels/exp_negative.h"

namespace weft {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLogitBlock = 1024;

/// Greatest value of a range; the form `a > b ? a : b` is what vectorises without relaxed arithmetic.
inline float block_max(const float* values, size_t count) {
  float best = -kInfinity;
#pragma omp simd reduction(max : best)
  for (size_t i = 0; i < count; ++i) best = values[i] > best ? values[i] : best;
  return best;
}

/// Sum of the values that are at least `least`, in f64.
inline double block_sum(const float* values, size_t count, float least) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (size_t i = 0; i < count; ++i) sum += values[i] >= least ? values[i] : 0.0f;
  return sum;
}

}  // namespace weft
