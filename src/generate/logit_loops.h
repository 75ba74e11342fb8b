// Loops over a row of logits, in pieces of kLogitBlock values that stay in the first cache. Files with these loops are
// compiled with -fno-trapping-math, which lets the comparisons become vector instructions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

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

/// e^x for x <= 0, 0 below −87. Plain arithmetic only, so that it vectorises and every rank gets the same bits whatever
/// its processor and C library.
inline float exp_negative(float x) {
  float clamped = x > -87.0f ? x : -87.0f;
  auto exponent = static_cast<int32_t>(clamped * 1.44269504f - 0.5f);
  auto n = static_cast<float>(exponent);
  float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  float series =
      1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
  float power = std::bit_cast<float>((exponent + 127) << 23);
  return x > -87.0f ? series * power : 0.0f;
}

}  // namespace weft
