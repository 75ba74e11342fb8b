#include <immintrin.h>

#include "kernels/cpu/quantized_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_avx2.inl"

using Input = float;
constexpr int kTileRows = 3;

inline Lanes broadcast(float value) {
  __m256 both = _mm256_set1_ps(value);
  return {.low = both, .high = both};
}

/// 8 f16 widened without the instruction, which AVX2 does not imply: the exponent, of another bias, by a product.
inline __m256 widen_halves(__m128i halves) {
  __m256i words = _mm256_cvtepu16_epi32(halves);
  __m256i size = _mm256_and_si256(words, _mm256_set1_epi32(0x7fff));
  __m256i is_nan = _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x7c00));
  __m256 scaled = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(size, 13)), _mm256_set1_ps(0x1p112f));
  __m256i sign = _mm256_slli_epi32(_mm256_and_si256(words, _mm256_set1_epi32(0x8000)), 16);
  __m256i nan = _mm256_and_si256(is_nan, _mm256_set1_epi32(0x7fc00000));
  return _mm256_or_ps(scaled, _mm256_castsi256_ps(_mm256_or_si256(sign, nan)));
}

inline Lanes half_lanes(const uint16_t* values) {
  const auto* halves = reinterpret_cast<const __m128i*>(values);
  return {.low = widen_halves(_mm_loadu_si128(halves)), .high = widen_halves(_mm_loadu_si128(halves + 1))};
}

struct Words {
  __m256i low;
  __m256i high;
};

inline Words load_words(const uint32_t* words) {
  const auto* halves = reinterpret_cast<const __m256i*>(words);
  return {.low = _mm256_loadu_si256(halves), .high = _mm256_loadu_si256(halves + 1)};
}

template <int kBits>
inline __m256 decode_half(__m256i words, int place) {
  if constexpr (kBits == 4) {
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(words, 4 * place), _mm256_set1_epi32(15)));
  } else {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24 - 8 * place), 24));
  }
}

template <int kBits>
inline Lanes decode(const Words& words, int place) {
  return {.low = decode_half<kBits>(words.low, place), .high = decode_half<kBits>(words.high, place)};
}

inline __m256i join_pairs(__m256 first, __m256 second) {
  return _mm256_or_si256(round_to_bf16(first), _mm256_slli_epi32(round_to_bf16(second), 16));
}

inline void store_pairs(uint16_t* pairs, Lanes first, Lanes second) {
  auto* words = reinterpret_cast<__m256i*>(pairs);
  _mm256_storeu_si256(words, join_pairs(first.low, second.low));
  _mm256_storeu_si256(words + 1, join_pairs(first.high, second.high));
}

#include "kernels/cpu/quantized_product.inl"

#include "kernels/cpu/quantized_decode.inl"
#include "kernels/cpu/quantized_widen.inl"

}  // namespace

void quantized_product_avx2(const QuantizedProduct& product) {
  quantized_product(product);
}

void widen_panel_avx2(const QuantizedPanel& source) {
  widen_panel(source);
}

}  // namespace weft
