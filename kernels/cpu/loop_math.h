// Scalar arithmetic that the compiler turns into vector code inside the *_loops.cpp files. Those are compiled once for
// each instruction set, into the namespace WEFT_ISA. Everything here is forced inline there, and standard headers'
// inline functions are not used: the linker keeps only one copy of an inline function, and that copy could contain
// instructions that the processor lacks.
#pragma once

#include <cstdint>

#include "core/dtype.h"

#define WEFT_INLINE inline __attribute__((always_inline))
#define WEFT_INLINE_LAMBDA __attribute__((always_inline))

namespace weft::WEFT_ISA {

/// What sums and products of a dtype are computed in.
template <typename T>
struct RealOf {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};
template <typename T>
using Real = typename RealOf<T>::type;

template <typename A, typename B>
struct WiderOf {
  using type = float;
};
template <typename B>
struct WiderOf<double, B> {
  using type = double;
};
template <>
struct WiderOf<float, double> {
  using type = double;
};

template <typename T>
struct TypeTag {};

/// Calls body(TypeTag<T>{}) for the dtype, one of f32, bf16 and f64 (the kernels have checked).
template <typename Body>
WEFT_INLINE void for_dtype(DType dtype, const Body& body) {
  if (dtype == DType::f32) {
    body(TypeTag<float>{});
  } else if (dtype == DType::bf16) {
    body(TypeTag<bfloat16>{});
  } else {
    body(TypeTag<double>{});
  }
}

WEFT_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
WEFT_INLINE int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
WEFT_INLINE int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

WEFT_INLINE float load(float value) {
  return value;
}
WEFT_INLINE double load(double value) {
  return value;
}
WEFT_INLINE float load(bfloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

template <typename T>
struct Rounded;
template <>
struct Rounded<float> {
  static WEFT_INLINE float from(double value) { return static_cast<float>(value); }
  static WEFT_INLINE float from(float value) { return value; }
};
template <>
struct Rounded<double> {
  static WEFT_INLINE double from(double value) { return value; }
};
template <>
struct Rounded<bfloat16> {
  static WEFT_INLINE bfloat16 from(float value) {
    uint32_t raw = __builtin_bit_cast(uint32_t, value);
    uint32_t quiet_nan = (raw >> 16) | 0x40u;
    uint32_t nearest = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
    bfloat16 result;
    result.bits = static_cast<uint16_t>((raw & 0x7fffffffu) > 0x7f800000u ? quiet_nan : nearest);
    return result;
  }
  static WEFT_INLINE bfloat16 from(double value) { return from(static_cast<float>(value)); }
};

/// `value` rounded to nearest even in T.
template <typename T, typename V>
WEFT_INLINE T round_to(V value) {
  return Rounded<T>::from(value);
}

WEFT_INLINE float square_root(float value) {
  return __builtin_sqrtf(value);
}
WEFT_INLINE double square_root(double value) {
  return __builtin_sqrt(value);
}
WEFT_INLINE float magnitude(float value) {
  return __builtin_fabsf(value);
}
WEFT_INLINE double magnitude(double value) {
  return __builtin_fabs(value);
}

/// e^x within 1 ulp or so; infinity and zero beyond the range, NaN for NaN. Minimax polynomial of (e^r − 1 − r)/r² on
/// |r| ≤ ln 2 / 2, error 3e-9.
WEFT_INLINE float exponential(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 · 2²³: adding it leaves the nearest integer in the low bits
  float shifted = x * 1.44269504f + kRoundToInteger;
  float n = shifted - kRoundToInteger;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.38145e-3f;
  p = p * r + 8.36875e-3f;
  p = p * r + 4.166839e-2f;
  p = p * r + 0.1666652f;
  p = p * r + 0.49999993f;
  p = p * (r * r) + r + 1.0f;
  // 2ⁿ in two factors: it may lie outside the normal range where the product does not.
  int32_t exponent = __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kRoundToInteger);
  int32_t half = exponent >> 1;
  float first = __builtin_bit_cast(float, (half + 127) << 23);
  float second = __builtin_bit_cast(float, (exponent - half + 127) << 23);
  return p * first * second;
}
WEFT_INLINE double exponential(double x) {
  return __builtin_exp(x);
}

/// 1 / (1 + e^−x).
template <typename R>
WEFT_INLINE R sigmoid(R x) {
  return R(1) / (R(1) + exponential(-x));
}

/// (tanh x − x)/x³ as a polynomial in x², highest power first, below kTanhSwitch: relative error 4e-9.
inline constexpr float kTanhCoefficients[] = {
    -5.704227065e-3f, 2.0638434447e-2f, -5.3739524049e-2f, 0.1333144002750f, -0.3333328186682f};
inline constexpr float kTanhSwitch = 0.625f;

/// tanh within 2 ulp or so.
WEFT_INLINE float hyperbolic_tangent(float x) {
  float size = magnitude(x);
  float large = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
  float square = x * x;
  float p = kTanhCoefficients[0];
  for (int i = 1; i < 5; ++i) p = p * square + kTanhCoefficients[i];
  float small = x + x * square * p;
  float signed_large = __builtin_copysignf(large, x);
  return size < kTanhSwitch ? small : signed_large;
}
WEFT_INLINE double hyperbolic_tangent(double x) {
  return __builtin_tanh(x);
}

/// Φ(x), the normal distribution function, absolute error about 2e-7: Φ − ½ is odd, and x times a quotient of
/// polynomials in x² that was fitted (least squares, weighted towards the largest error) on |x| < 5.5.
WEFT_INLINE float normal_cdf(float x) {
  constexpr float kEnd = 5.5f;  // Φ is 2e-8 from 0 or 1 there
  float t = x * x;
  float p = 2.2749085493e-8f;
  p = p * t + 6.3518895143e-6f;
  p = p * t + 1.6881563196e-4f;
  p = p * t + 4.6771997071e-3f;
  p = p * t + 3.3851832198e-2f;
  p = p * t + 3.9894223477e-1f;
  float q = 1.1974785943e-6f;
  q = q * t + 7.3643410563e-5f;
  q = q * t + 1.8843898713e-3f;
  q = q * t + 2.8645376223e-2f;
  q = q * t + 2.5151987999e-1f;
  q = q * t + 1.0f;
  float cdf = 0.5f + x * p / q;
  cdf = x < -kEnd ? 0.0f : cdf;
  return x > kEnd ? 1.0f : cdf;
}
WEFT_INLINE double normal_cdf(double x) {
  return 0.5 * __builtin_erfc(-x * 0.70710678118654752440);
}

}  // namespace weft::WEFT_ISA
