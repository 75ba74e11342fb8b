#include <immintrin.h>

#include "kernels/cpu/quantized_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_avx512.inl"

#include "kernels/cpu/quantized_avx512.inl"

using Input = uint16_t;
constexpr int kTileRows = 16;

inline void store_lanes(uint16_t* values, Lanes lanes, int64_t count) {
  _mm256_mask_storeu_epi16(values, first_lanes(count), (__m256i)_mm512_cvtneps_pbh(lanes));
}

#include "kernels/cpu/quantized_product.inl"

struct CodeTable {
  uint16_t values[32];
};

/// The bf16 of what 4 bits stand for, twice: the permutation looks at 5 bits of an index, of which the fifth belongs to
/// the next code. Integers below 256 are exact.
constexpr CodeTable make_table(int first, int second, int factor) {
  CodeTable table = {};
  for (int i = 0; i < 32; ++i) {
    int code = i % 16 < 8 ? first + i % 16 : second + i % 16;
    table.values[i] = static_cast<uint16_t>(__builtin_bit_cast(uint32_t, static_cast<float>(factor * code)) >> 16);
  }
  return table;
}

alignas(64) constexpr CodeTable kUnsigned = make_table(0, 0, 1);
alignas(64) constexpr CodeTable kSignedUpper = make_table(0, -16, 16);

inline __m512bh look_up(const CodeTable& table, __m512i indices) {
  return (__m512bh)_mm512_permutexvar_epi16(indices, _mm512_load_si512(table.values));
}

struct PairOrder {
  uint16_t indices[32];
};

constexpr PairOrder make_pair_order() {
  PairOrder order = {};
  for (int i = 0; i < 32; ++i) order.indices[i] = static_cast<uint16_t>(i / 2 + i % 2 * 16);
  return order;
}

alignas(64) constexpr PairOrder kPairOrder = make_pair_order();

/// Pairs of two Lanes, rounded.
inline __m512bh join_pairs(Lanes first, Lanes second) {
  __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  return (__m512bh)_mm512_permutexvar_epi16(_mm512_load_si512(kPairOrder.indices), halves);
}

template <int kChains, int kRows>
inline __attribute__((always_inline)) void add_pairs(
    __m512bh weights, const uint16_t* x, int64_t x_stride, int chain, Lanes (&sums)[kChains][kRows]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    int pair;
    __builtin_memcpy(&pair, x + r * x_stride, sizeof pair);
    Lanes& sum = sums[chain % kChains][r];
    sum = _mm512_dpbf16_ps(sum, weights, (__m512bh)_mm512_set1_epi32(pair));
  }
}

/// Beyond so many rows it is cheaper to make one number of an int8 code than to multiply with both of its halves.
constexpr int kMaxRowsOfHalves = 3;

/// A pair of input features for each lane. int8 codes are the sum of what their lower and their upper 4 bits stand for.
template <int kBits, int kChains, int kRows>
inline __attribute__((always_inline)) void add_block(const uint32_t* words,
                                                     const uint16_t* x,
                                                     int64_t x_stride,
                                                     Lanes (&sums)[kChains][kRows]) {
  __m512i codes = load_words(words);
  if constexpr (kBits == 8 && kRows > kMaxRowsOfHalves) {
#pragma GCC unroll 2
    for (int pair = 0; pair < 2; ++pair) {
      __m512bh weights = join_pairs(decode<8>(codes, pair), decode<8>(codes, pair + 2));
      add_pairs<kChains, kRows>(weights, x + 2 * pair, x_stride, pair, sums);
    }
  } else {
#pragma GCC unroll 4
    for (int step = 0; step < 4; ++step) {
      bool is_upper = kBits == 8 && step % 2 == 1;
      __m512bh weights = look_up(is_upper ? kSignedUpper : kUnsigned, _mm512_srli_epi16(codes, 4 * step));
      add_pairs<kChains, kRows>(weights, x + 2 * (kBits == 8 ? step / 2 : step), x_stride, step, sums);
    }
  }
}

inline void store_pairs(uint16_t* pairs, Lanes first, Lanes second) {
  _mm512_storeu_si512(pairs, (__m512i)join_pairs(first, second));
}

#include "kernels/cpu/quantized_widen.inl"

}  // namespace

void quantized_product_avx512_bf16(const QuantizedProduct& product) {
  quantized_product(product);
}

void widen_panel_avx512_bf16(const QuantizedPanel& source) {
  widen_panel(source);
}

}  // namespace weft
