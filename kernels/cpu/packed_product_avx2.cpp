#include <immintrin.h>

#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

struct Lanes {
  __m256 low;
  __m256 high;
};

/// bf16 pairs widened to f32.
struct Pairs {
  Lanes first;
  Lanes second;
};

inline Lanes zero_lanes() {
  return {.low = _mm256_setzero_ps(), .high = _mm256_setzero_ps()};
}
inline Lanes add(Lanes a, Lanes b) {
  return {.low = _mm256_add_ps(a.low, b.low), .high = _mm256_add_ps(a.high, b.high)};
}

inline Lanes multiply_add(Lanes sums, Lanes a, Lanes b) {
  return {.low = _mm256_fmadd_ps(a.low, b.low, sums.low), .high = _mm256_fmadd_ps(a.high, b.high, sums.high)};
}

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

inline Lanes load_lanes(const float* values, int64_t count) {
  Lanes lanes = zero_lanes();
  __builtin_memcpy(&lanes, values, static_cast<size_t>(count) * sizeof(float));
  return lanes;
}

inline __m256 widen_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

inline Lanes load_lanes(const uint16_t* values, int64_t count) {
  __m128i halves[2] = {};
  __builtin_memcpy(halves, values, static_cast<size_t>(count) * sizeof(uint16_t));
  return {.low = widen_bf16(halves[0]), .high = widen_bf16(halves[1])};
}

inline void store_lanes(float* values, Lanes lanes, int64_t count) {
  __builtin_memcpy(values, &lanes, static_cast<size_t>(count) * sizeof(float));
}

/// The rounded bf16 in the lower half of each word: to nearest, ties to even; NaN stays NaN.
inline __m256i round_to_bf16(__m256 values) {
  __m256i words = _mm256_castps_si256(values);
  __m256i upper = _mm256_srli_epi32(words, 16);
  __m256i bias = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(words, bias), 16);
  __m256i quiet_nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet_nan, is_nan);
}

inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  __m256i interleaved = _mm256_packus_epi32(round_to_bf16(lanes.low), round_to_bf16(lanes.high));
  __m256i halves = _mm256_permute4x64_epi64(interleaved, 0b11011000);
  __builtin_memcpy(values, &halves, static_cast<size_t>(count) * sizeof(uint16_t));
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
