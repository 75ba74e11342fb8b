#include <immintrin.h>

#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_avx512.inl"

using Pairs = __m512bh;

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
