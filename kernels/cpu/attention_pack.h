// Rows of keys, values and queries in the order in which the products of attention read them: as the left factor row by
// row, as the right one either transposed (sums over dims) or with kDepth rows interleaved (sums over rows).
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/simd.h"

namespace weft::WEFT_ISA {

inline constexpr int64_t kKeyBlock = 128;
static_assert(kKeyBlock <= kAttentionBiasPadding);

/// `count` rows of `dims` elements.
template <typename T>
struct RowsView {
  const T* data = nullptr;
  int64_t stride = 0, count = 0, dims = 0;
};

/// Words (f32, or pairs of bf16) of `count` rows: word w of row r goes to packed[w · kKeyBlock + r], zeros for rows
/// that do not exist up to the next multiple of two vectors, which products read. `load_words` gives a vector of a
/// row's words, `load_word` one of them; the last word may be only partly there.
template <typename R, typename LoadWords, typename LoadWord>
WEFT_INLINE void transpose_words(int64_t count,
                                 int64_t words,
                                 int64_t complete_words,
                                 R* packed,
                                 const LoadWords& load_words,
                                 const LoadWord& load_word) {
  constexpr int64_t kSquare = kLanes<R>;
  int64_t whole_words = complete_words / kSquare * kSquare;
  int64_t padded_count = round_up(count, 2 * kLanes<R>);
  for (int64_t row = 0; row < padded_count; row += kSquare) {
    for (int64_t word = 0; word < whole_words; word += kSquare) {
      Vector<R> square[kSquare];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kSquare; ++i) square[i] = row + i < count ? load_words(row + i, word) : Vector<R>{};
      transpose<R>(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kSquare; ++i) store_vector(packed + (word + i) * kKeyBlock + row, square[i]);
    }
    for (int64_t word = whole_words; word < words; ++word) {
      for (int64_t i = 0; i < kSquare; ++i) {
        packed[word * kKeyBlock + row + i] = row + i < count ? load_word(row + i, word) : R(0);
      }
    }
  }
}

/// Single dims (or, below, pairs of dims) of kKeyBlock rows are transposed, so that a vector holds one of them for
/// consecutive rows.
template <typename T, typename R>
WEFT_INLINE void pack_keys(FmaProduct<R>, RowsView<T> keys, R* packed) {
  transpose_words<R>(
      keys.count,
      keys.dims,
      keys.dims,
      packed,
      [&](int64_t key, int64_t d) WEFT_INLINE_LAMBDA { return load_elements(keys.data + key * keys.stride + d); },
      [&](int64_t key, int64_t d) WEFT_INLINE_LAMBDA { return load(keys.data[key * keys.stride + d]); });
}

/// Rows (or, below, pairs of rows, element by element) of `width` elements; what does not exist is zero up to
/// `padded_count` rows.
template <typename T, typename R>
WEFT_INLINE void pack_values(FmaProduct<R>, RowsView<T> values, int64_t padded_count, int64_t width, R* packed) {
  for (int64_t key = 0; key < padded_count; ++key) {
    R* row = packed + key * width;
    int64_t dims = key < values.count ? values.dims : 0;
#pragma omp simd
    for (int64_t d = 0; d < dims; ++d) row[d] = load(values.data[key * values.stride + d]);
    for (int64_t d = dims; d < width; ++d) row[d] = 0;
  }
}

template <typename R>
WEFT_INLINE void store_weights(FmaProduct<R>, R* to, Vector<R> first, Vector<R> second) {
  store_vector(to, first);
  store_vector(to + kLanes<R>, second);
}

#if defined(__AVX512BF16__)
WEFT_INLINE void pack_keys(Bf16Product, RowsView<bfloat16> keys, bfloat16* packed) {
  transpose_words<float>(
      keys.count,
      (keys.dims + 1) / 2,
      keys.dims / 2,
      reinterpret_cast<float*>(packed),
      [&](int64_t key, int64_t pair) WEFT_INLINE_LAMBDA {
        return load_vector(reinterpret_cast<const float*>(keys.data + key * keys.stride + 2 * pair));
      },
      [&](int64_t key, int64_t pair) WEFT_INLINE_LAMBDA {
        const bfloat16* elements = keys.data + key * keys.stride + 2 * pair;
        uint32_t high = 2 * pair + 1 < keys.dims ? elements[1].bits : 0u;
        return __builtin_bit_cast(float, elements[0].bits | high << 16);
      });
}

WEFT_INLINE void pack_values(
    Bf16Product, RowsView<bfloat16> values, int64_t padded_count, int64_t width, bfloat16* packed) {
  for (int64_t key = 0; key < padded_count; key += 2) {
    const uint16_t* first = reinterpret_cast<const uint16_t*>(values.data + key * values.stride);
    const uint16_t* second = first + values.stride;
    uint32_t* pairs = reinterpret_cast<uint32_t*>(packed + key * width);
    int64_t dims = key + 1 < values.count ? values.dims : 0;
#pragma omp simd
    for (int64_t d = 0; d < dims; ++d) pairs[d] = first[d] | static_cast<uint32_t>(second[d]) << 16;
    for (int64_t d = dims; d < width; ++d) pairs[d] = key + 1 == values.count && d < values.dims ? first[d] : 0;
  }
}

WEFT_INLINE void store_weights(Bf16Product, bfloat16* to, Vector<float> first, Vector<float> second) {
  _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}
#endif

}  // namespace weft::WEFT_ISA
