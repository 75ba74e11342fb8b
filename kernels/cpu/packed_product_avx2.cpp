#include <immintrin.h>

#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_avx2.inl"

/// bf16 pairs widened to f32.
struct Pairs {
  Lanes first;
  Lanes second;
};

inline __m256 first_of_pairs(__m256i words) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline __m256 second_of_pairs(__m256i words) {
  return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline Pairs load_words(const uint16_t* pairs) {
  __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs + 16));
  return {.first = {.low = first_of_pairs(low), .high = first_of_pairs(high)},
          .second = {.low = second_of_pairs(low), .high = second_of_pairs(high)}};
}

inline Pairs broadcast_word(const uint16_t* pair) {
  int word;
  __builtin_memcpy(&word, pair, sizeof word);
  __m256i words = _mm256_set1_epi32(word);
  __m256 first = first_of_pairs(words);
  __m256 second = second_of_pairs(words);
  return {.first = {.low = first, .high = first}, .second = {.low = second, .high = second}};
}

inline Lanes add_products(Lanes sums, const Pairs& weights, const Pairs& x) {
  return multiply_add(multiply_add(sums, weights.first, x.first), weights.second, x.second);
}

inline Lanes load_words(const float* words) {
  return {.low = _mm256_loadu_ps(words), .high = _mm256_loadu_ps(words + 8)};
}

inline Lanes broadcast_word(const float* word) {
  __m256 both = _mm256_broadcast_ss(word);
  return {.low = both, .high = both};
}

inline Lanes add_products(Lanes sums, Lanes weights, Lanes x) {
  return multiply_add(sums, weights, x);
}

template <typename Element>
constexpr int kStreamedRows = sizeof(Element) == sizeof(float) ? 8 : 4;
template <typename Element>
constexpr int kTileRows = sizeof(Element) == sizeof(float) ? 6 : 4;
template <typename Element>
constexpr int kTilePanels = 1;

#include "kernels/cpu/packed_product.inl"

}  // namespace

void packed_product_avx2(const PackedProduct<uint16_t>& product) {
  packed_product(product);
}

void packed_product_avx2(const PackedProduct<float>& product) {
  packed_product(product);
}

}  // namespace weft
