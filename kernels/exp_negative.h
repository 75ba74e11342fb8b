// A weight of the sampler, to the bit the same on every processor and on GPUs.
#pragma once

#include <bit>
#include <cstdint>

namespace weft {

#if defined(__CUDACC__)
#define WEFT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define WEFT_HOST_DEVICE inline
#endif

/// Products and sums that GPU compilers do not join into one instruction.
WEFT_HOST_DEVICE float separate_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
WEFT_HOST_DEVICE float separate_sum(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

/// e^x for x <= 0, 0 below −87. Plain arithmetic only, so that it vectorises and every rank gets the same bits whatever
/// its processor and C library.
WEFT_HOST_DEVICE float exp_negative(float x) {
  float clamped = x > -87.0f ? x : -87.0f;
  auto exponent = static_cast<int32_t>(separate_sum(separate_product(clamped, 1.44269504f), -0.5f));
  auto n = static_cast<float>(exponent);
  float r =
      separate_sum(separate_sum(clamped, separate_product(n, -0.693359375f)), separate_product(n, 2.12194440e-4f));
  float series = 1.0f / 720;
  series = separate_sum(1.0f / 120, separate_product(r, series));
  series = separate_sum(1.0f / 24, separate_product(r, series));
  series = separate_sum(1.0f / 6, separate_product(r, series));
  series = separate_sum(0.5f, separate_product(r, series));
  series = separate_sum(1.0f, separate_product(r, series));
  series = separate_sum(1.0f, separate_product(r, series));
  float power = std::bit_cast<float>((exponent + 127) << 23);
  return x > -87.0f ? separate_product(series, power) : 0.0f;
}

}  // namespace weft
