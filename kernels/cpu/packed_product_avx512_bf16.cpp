#include <immintrin.h>

#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

using Lanes = __m512;
using Pairs = __m512bh;

inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}

inline Lanes zero_lanes() {
  return _mm512_setzero_ps();
}
inline Lanes add(Lanes a, Lanes b) {
  return _mm512_add_ps(a, b);
}

inline Pairs load_words(const uint16_t* pairs) {
  return (Pairs)_mm512_loadu_si512(pairs);
}

inline Pairs broadcast_word(const uint16_t* pair) {
  int word;
  __builtin_memcpy(&word, pair, sizeof word);
  return (Pairs)_mm512_set1_epi32(word);
}

inline Lanes add_products(Lanes sums, Pairs weights, Pairs x) {
  return _mm512_dpbf16_ps(sums, weights, x);
}

inline Lanes load_lanes(const float* values, int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), values);
}

inline Lanes load_lanes(const uint16_t* values, int64_t count) {
  __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(count), values);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline void store_lanes(float* values, Lanes lanes, int64_t count) {
  _mm512_mask_storeu_ps(values, first_lanes(count), lanes);
}

inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  _mm256_mask_storeu_epi16(values, first_lanes(count), (__m256i)_mm512_cvtneps_pbh(lanes));
}

template <typename Element>
constexpr int kStreamedRows = 16;
template <typename Element>
constexpr int kTileRows = 12;
template <typename Element>
constexpr int kTilePanels = 2;

#include "kernels/cpu/packed_product.inl"

}  // namespace

void packed_product_avx512_bf16(const PackedProduct<uint16_t>& product) {
  packed_product(product);
}

}  // namespace weft
