#include <immintrin.h>

#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_avx512.inl"

/// bf16 pairs widened to f32.
struct Pairs {
  Lanes first;
  Lanes second;
};

inline Pairs widen_pairs(__m512i words) {
  return {.first = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)),
          .second = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

inline Pairs load_words(const uint16_t* words) {
  return widen_pairs(_mm512_loadu_si512(words));
}
inline Lanes load_words(const float* words) {
  return _mm512_loadu_ps(words);
}

inline Pairs broadcast_word(const uint16_t* pair) {
  int word;
  __builtin_memcpy(&word, pair, sizeof word);
  return widen_pairs(_mm512_set1_epi32(word));
}
inline Lanes broadcast_word(const float* word) {
  return _mm512_set1_ps(*word);
}

inline Lanes add_products(Lanes sums, const Pairs& weights, const Pairs& x) {
  return _mm512_fmadd_ps(weights.second, x.second, _mm512_fmadd_ps(weights.first, x.first, sums));
}
inline Lanes add_products(Lanes sums, Lanes weights, Lanes x) {
  return _mm512_fmadd_ps(weights, x, sums);
}

inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  _mm256_mask_storeu_epi16(values, first_lanes(count), _mm512_cvtepi32_epi16(round_to_bf16(lanes)));
}

template <typename Element>
constexpr int kStreamedRows = sizeof(Element) == sizeof(float) ? 16 : 4;
template <typename Element>
constexpr int kTileRows = sizeof(Element) == sizeof(float) ? 12 : 8;
template <typename Element>
constexpr int kTilePanels = 2;

#include "kernels/cpu/packed_product.inl"

}  // namespace

void packed_product_avx512(const PackedProduct<uint16_t>& product) {
  packed_product(product);
}

void packed_product_avx512(const PackedProduct<float>& product) {
  packed_product(product);
}

}  // namespace weft
