// Reading quantized weights (kernels/quantized_shape.h): where a group lies, and what its codes stand for.
#pragma once

#include <cuda_fp16.h>

#include "kernels/cuda/common.cuh"
#include "kernels/quantized_shape.h"

namespace weft::cuda::quantized_parts {

inline constexpr int kPanelWidth = kQuantizedPanelWidth;
inline constexpr int kGroup = kQuantizationGroup;

/// Input features in a word of codes.
template <int kBits>
inline constexpr int kWordFeatures = 32 / kBits;

/// Bytes from a panel's beginning to a group's codes.
template <int kBits>
__device__ __forceinline__ int64_t codes_offset(int group) {
  return QuantizedShape::codes_offset(kBits == 4, group);
}

/// To its scales; minima are 32 bytes behind those of int4.
template <int kBits>
__device__ __forceinline__ int64_t scales_offset(int group) {
  return QuantizedShape::scales_offset(kBits == 4, group);
}

/// The codes of a word in the order of the input features. Exact.
template <int kBits>
__device__ __forceinline__ void decode_word(uint32_t word, float (&codes)[kWordFeatures<kBits>]) {
  if constexpr (kBits == 4) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      // 0x4300 | code is 128 + code in bf16.
      uint32_t bits = (word >> (4 * pair) & 0x000f000fu) | 0x43004300u;
      codes[2 * pair] = __uint_as_float(bits << 16) - 128.0f;
      codes[2 * pair + 1] = __uint_as_float(bits & 0xffff0000u) - 128.0f;
    }
  } else {
    uint32_t biased = word ^ 0x80808080u;  // code + 128
#pragma unroll
    for (int place = 0; place < 4; ++place) {
      // 0x4b0000uu is 2²³ + uu in f32.
      uint32_t bits = __byte_perm(biased, 0x4b000000u, 0x7440u + static_cast<uint32_t>(place));
      codes[place < 2 ? 2 * place : 2 * place - 3] = __uint_as_float(bits) - 8388736.0f;
    }
  }
}

/// One feature's scale and minimum of a group.
struct GroupScale {
  float scale = 0, minimum = 0;
};

template <int kBits>
__device__ __forceinline__ GroupScale load_scale(const std::byte* panel, int group, int feature) {
  const __half* scales = reinterpret_cast<const __half*>(panel + scales_offset<kBits>(group)) + feature;
  return {__half2float(*scales), kBits == 4 ? __half2float(scales[kPanelWidth]) : 0.0f};
}

/// The weights of a word: scale · code + minimum, rounded once.
template <int kBits>
__device__ __forceinline__ void decode_weights(uint32_t word,
                                               const GroupScale& scale,
                                               float (&weights)[kWordFeatures<kBits>]) {
  decode_word<kBits>(word, weights);
#pragma unroll
  for (int i = 0; i < kWordFeatures<kBits>; ++i) {
    weights[i] = kBits == 4 ? fmaf(weights[i], scale.scale, scale.minimum) : weights[i] * scale.scale;
  }
}

}  // namespace weft::cuda::quantized_parts
