// Attention of many queries: blocks of keys are packed once for a piece's rows, and pass through tiles of kTileRows
// rows with an online softmax.
#include <type_traits>

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

constexpr int64_t kKeyBlock = 128;

/// Words (f32, or pairs of bf16) of `count` rows: word w of row r goes to packed[w · kKeyBlock + r], zeros for rows
/// that do not exist. `load_words` gives a vector of a row's words, `load_word` one of them; the last word may be only
/// partly there.
template <typename R, typename LoadWords, typename LoadWord>
WEFT_INLINE void transpose_words(int64_t count,
                                 int64_t words,
                                 int64_t complete_words,
                                 R* packed,
                                 const LoadWords& load_words,
                                 const LoadWord& load_word) {
  constexpr int64_t kSquare = kLanes<R>;
  int64_t whole_words = complete_words / kSquare * kSquare;
  for (int64_t row = 0; row < kKeyBlock; row += kSquare) {
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

/// A vector of consecutive elements in the precision of sums.
template <typename T>
WEFT_INLINE Vector<Real<T>> load_elements(const T* from) {
  Vector<Real<T>> elements;
#pragma GCC unroll 16
  for (int lane = 0; lane < kLanes<Real<T>>; ++lane) elements[lane] = load(from[lane]);
  return elements;
}

/// Single dims (or, below, pairs of dims) are transposed, so that a vector holds one of them for consecutive keys.
template <typename T, typename R>
WEFT_INLINE void pack_keys(FmaProduct<R>, const T* keys, int64_t stride, int64_t count, int64_t head_dim, R* packed) {
  transpose_words<R>(
      count,
      head_dim,
      head_dim,
      packed,
      [&](int64_t key, int64_t d) WEFT_INLINE_LAMBDA { return load_elements(keys + key * stride + d); },
      [&](int64_t key, int64_t d) WEFT_INLINE_LAMBDA { return load(keys[key * stride + d]); });
}

template <typename T, typename R>
WEFT_INLINE void pack_values(
    FmaProduct<R>, const T* values, int64_t stride, int64_t count, int64_t head_dim, int64_t width, R* packed) {
  for (int64_t key = 0; key < kKeyBlock; ++key) {
    R* row = packed + key * width;
    int64_t dims = key < count ? head_dim : 0;
#pragma omp simd
    for (int64_t d = 0; d < dims; ++d) row[d] = load(values[key * stride + d]);
    for (int64_t d = dims; d < width; ++d) row[d] = 0;
  }
}

template <typename R>
WEFT_INLINE void store_weights(FmaProduct<R>, R* to, Vector<R> first, Vector<R> second) {
  store_vector(to, first);
  store_vector(to + kLanes<R>, second);
}

#if defined(__AVX512BF16__)
WEFT_INLINE void pack_keys(
    Bf16Product, const bfloat16* keys, int64_t stride, int64_t count, int64_t head_dim, bfloat16* packed) {
  transpose_words<float>(
      count,
      (head_dim + 1) / 2,
      head_dim / 2,
      reinterpret_cast<float*>(packed),
      [&](int64_t key, int64_t pair)
          WEFT_INLINE_LAMBDA { return load_vector(reinterpret_cast<const float*>(keys + key * stride + 2 * pair)); },
      [&](int64_t key, int64_t pair) WEFT_INLINE_LAMBDA {
        const bfloat16* elements = keys + key * stride + 2 * pair;
        uint32_t high = 2 * pair + 1 < head_dim ? elements[1].bits : 0u;
        return __builtin_bit_cast(float, elements[0].bits | high << 16);
      });
}

WEFT_INLINE void pack_values(Bf16Product,
                             const bfloat16* values,
                             int64_t stride,
                             int64_t count,
                             int64_t head_dim,
                             int64_t width,
                             bfloat16* packed) {
  for (int64_t key = 0; key < kKeyBlock; key += 2) {
    const uint16_t* first = reinterpret_cast<const uint16_t*>(values + key * stride);
    const uint16_t* second = first + stride;
    uint32_t* pairs = reinterpret_cast<uint32_t*>(packed + key * width);
    int64_t dims = key + 1 < count ? head_dim : 0;
#pragma omp simd
    for (int64_t d = 0; d < dims; ++d) pairs[d] = first[d] | static_cast<uint32_t>(second[d]) << 16;
    for (int64_t d = dims; d < width; ++d) pairs[d] = key + 1 == count && d < head_dim ? first[d] : 0;
  }
}

WEFT_INLINE void store_weights(Bf16Product, bfloat16* to, Vector<float> first, Vector<float> second) {
  _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}
#endif

template <typename Product, typename T>
class ForwardPiece {
  using R = typename Product::Sum;
  using Element = typename Product::Element;

 public:
  static int64_t scratch_bytes(const AttentionForwardArgs& args, int64_t query_count) {
    ForwardPiece piece(args, query_count, 0);
    return piece.scratch_bytes_;
  }

  ForwardPiece(const AttentionForwardArgs& args, int64_t query_count, uintptr_t scratch)
      : args_(args),
        group_(args.num_heads / args.num_kv_heads),
        rows_(query_count * group_),
        padded_rows_(round_up(rows_, kTileRows)),
        depth_(round_up(args.head_dim, Product::kDepth)),
        width_(round_up(args.head_dim, kLanes<R>)),
        score_scale_(args.mask) {
    ScratchCutter cutter{scratch};
    queries_ = cutter.cut<Element>(padded_rows_ * depth_);
    keys_ = cutter.cut<Element>(depth_ * kKeyBlock);
    values_ = cutter.cut<Element>(width_ * kKeyBlock);
    scores_ = cutter.cut<R>(kTileRows * kKeyBlock);
    weights_ = cutter.cut<Element>(kTileRows * kKeyBlock);
    out_ = cutter.cut<R>(padded_rows_ * width_);
    maximum_ = cutter.cut<R>(padded_rows_);
    sum_ = cutter.cut<R>(padded_rows_ * kLanes<R>);
    visible_ = cutter.cut<KeyRange>(padded_rows_);
    scratch_bytes_ = cutter.used;
  }

  void run(const AttentionWork& work) {
    sequence_ = work.sequence;
    first_query_ = work.query_begin;
    kv_head_ = work.kv_head;
    load_queries();
    for (int64_t i = 0; i < padded_rows_ * width_; ++i) out_[i] = 0;
    for (int64_t row = 0; row < padded_rows_; ++row) {
      visible_[row] = visible_keys(*sequence_, args_.mask, first_query_ + smaller(row, rows_ - 1) / group_);
      maximum_[row] = kMaskedScore<R>;
      store_vector(sum_ + row * kLanes<R>, Vector<R>{});
    }
    int64_t begin = visible_[0].begin;
    int64_t end = visible_[rows_ - 1].end;
    for (int64_t block = begin; block < end; block += kKeyBlock) {
      load_keys(block, smaller(kKeyBlock, end - block));
      for (int64_t row = 0; row < padded_rows_; row += kTileRows) attend_tile(row, block);
    }
    for (int64_t row = 0; row < rows_; ++row) store_row(row);
  }

 private:
  WEFT_INLINE int64_t element_row(int64_t row) const {
    int64_t query = sequence_->query_begin + first_query_ + row / group_;
    return query * args_.num_heads + kv_head_ * group_ + row % group_;
  }

  void load_queries() {
    for (int64_t row = 0; row < padded_rows_; ++row) {
      Element* to = queries_ + row * depth_;
      int64_t dims = row < rows_ ? args_.head_dim : 0;
      const T* from = static_cast<const T*>(args_.q) + (dims > 0 ? element_row(row) : 0) * args_.head_dim;
      if constexpr (std::is_same_v<T, Element>) {
        __builtin_memcpy(to, from, static_cast<size_t>(dims) * sizeof(T));
      } else {
        for (int64_t d = 0; d < dims; ++d) to[d] = round_to<Element>(load(from[d]));
      }
      for (int64_t d = dims; d < depth_; ++d) to[d] = Element{};
    }
  }

  void load_keys(int64_t block, int64_t count) {
    int64_t stride = sequence_->key_token_stride;
    int64_t at = kv_head_ * sequence_->key_head_stride + block * stride;
    pack_keys(Product{}, static_cast<const T*>(sequence_->keys) + at, stride, count, args_.head_dim, keys_);
    pack_values(
        Product{}, static_cast<const T*>(sequence_->values) + at, stride, count, args_.head_dim, width_, values_);
  }

  /// Rows [row, row + kTileRows) against the keys of the block that any of them sees.
  void attend_tile(int64_t row, int64_t block) {
    KeyRange first = visible_[row];
    KeyRange last = visible_[row + kTileRows - 1];
    constexpr int64_t kStep = 2 * kLanes<R>;
    int64_t begin = larger(first.begin - block, 0) / kStep * kStep;
    int64_t end = round_up(smaller(last.end - block, kKeyBlock), kStep);
    if (begin >= end) return;
    bool is_bounded = last.begin > block + begin || first.end < block + end;
    multiply_rows<Product, kTileRows>({.a = queries_ + row * depth_,
                                       .a_row = depth_,
                                       .a_step = Product::kDepth,
                                       .b = keys_ + begin * Product::kDepth,
                                       .b_step = kKeyBlock * Product::kDepth,
                                       .steps = depth_ / Product::kDepth,
                                       .c = scores_ + begin,
                                       .c_row = kKeyBlock},
                                      end - begin);
    R rescale[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {
      KeyRange visible = visible_[row + r];
      KeyRange bounds{visible.begin - block, visible.end - block};
      rescale[r] = is_bounded ? soften_row<true>(row + r, r, begin, end, bounds)
                              : soften_row<false>(row + r, r, begin, end, bounds);
    }
    multiply_rows<Product, kTileRows>({.a = weights_ + begin,
                                       .a_row = kKeyBlock,
                                       .a_step = Product::kDepth,
                                       .b = values_ + begin * width_,
                                       .b_step = width_ * Product::kDepth,
                                       .steps = (end - begin) / Product::kDepth,
                                       .c = out_ + row * width_,
                                       .c_row = width_,
                                       .accumulate = true,
                                       .scale = rescale},
                                      width_);
  }

  /// Products [begin, end) of tile row r become weights relative to the row's new maximum; returns what the row's
  /// earlier sums shrink by.
  template <bool is_bounded>
  WEFT_INLINE R soften_row(int64_t row, int r, int64_t begin, int64_t end, KeyRange bounds) {
    R* scores = scores_ + r * kKeyBlock;
    Vector<R> masked = Vector<R>{} + kMaskedScore<R>;
    Vector<R> maximum = masked;
    for (int64_t i = begin; i < end; i += kLanes<R>) {
      Vector<R> score = load_vector(scores + i);
      if (!score_scale_.is_linear) {
        score = score_scale_.curve(score);
        store_vector(scores + i, score);
      }
      if constexpr (is_bounded) score = lanes_between<R>(bounds.begin - i, bounds.end - i) ? score : masked;
      maximum = score > maximum ? score : maximum;
    }
    R old_maximum = maximum_[row];
    R new_maximum = horizontal_maximum<R>(maximum);
    new_maximum = new_maximum > old_maximum ? new_maximum : old_maximum;
    Vector<R> sum{};
    for (int64_t i = begin; i < end; i += 2 * kLanes<R>) {
      Vector<R> first = weights_of<is_bounded>(scores, i, new_maximum, bounds);
      Vector<R> second = weights_of<is_bounded>(scores, i + kLanes<R>, new_maximum, bounds);
      sum += first + second;
      store_weights(Product{}, weights_ + r * kKeyBlock + i, first, second);
    }
    R shift = (old_maximum - new_maximum) * score_scale_.factor;
    R rescale = exp2_of_negative(Vector<R>{} + (shift < kNegligible<R> ? kNegligible<R> : shift))[0];
    maximum_[row] = new_maximum;
    R* row_sum = sum_ + row * kLanes<R>;
    store_vector(row_sum, load_vector(row_sum) * rescale + sum);
    return rescale;
  }

  template <bool is_bounded>
  WEFT_INLINE Vector<R> weights_of(const R* scores, int64_t i, R maximum, KeyRange bounds) const {
    Vector<R> weights = exp2_of_negative((load_vector(scores + i) - maximum) * score_scale_.factor);
    if constexpr (is_bounded) weights = lanes_between<R>(bounds.begin - i, bounds.end - i) ? weights : Vector<R>{};
    return weights;
  }

  void store_row(int64_t row) {
    T* out = static_cast<T*>(args_.out) + element_row(row) * args_.head_dim;
    const R* from = out_ + row * width_;
    R sum = horizontal_sum<R>(load_vector(sum_ + row * kLanes<R>));
    R inverse_sum = R(1) / sum;
#pragma omp simd
    for (int64_t d = 0; d < args_.head_dim; ++d) out[d] = round_to<T>(from[d] * inverse_sum);
    if (args_.log_sum_exp != nullptr) {
      double maximum = static_cast<double>(maximum_[row]) * static_cast<double>(score_scale_.factor) * kLn2;
      double log_sum = maximum + __builtin_log(static_cast<double>(sum));
      static_cast<R*>(args_.log_sum_exp)[element_row(row)] = static_cast<R>(log_sum);
    }
  }

  const AttentionForwardArgs& args_;
  int64_t group_, rows_, padded_rows_, depth_, width_;
  ScoreScale<R> score_scale_;
  const AttentionSequence* sequence_ = nullptr;
  int64_t first_query_ = 0, kv_head_ = 0;
  Element *queries_, *keys_, *values_, *weights_;
  R *scores_, *out_;
  R* maximum_;  // [rows], before the scale's factor
  R* sum_;      // [rows, lanes]: each lane's part
  KeyRange* visible_;
  int64_t scratch_bytes_ = 0;
};

template <typename Body>
WEFT_INLINE void for_piece(DType dtype, const Body& body) {
  if (dtype == DType::f64) {
    body(TypeTag<ForwardPiece<FmaProduct<double>, double>>{});
  } else if (dtype == DType::f32) {
    body(TypeTag<ForwardPiece<FmaProduct<float>, float>>{});
  } else {
#if defined(__AVX512BF16__)
    body(TypeTag<ForwardPiece<Bf16Product, bfloat16>>{});
#else
    body(TypeTag<ForwardPiece<FmaProduct<float>, bfloat16>>{});
#endif
  }
}

}  // namespace

int64_t attention_forward_scratch(const AttentionForwardArgs& args, int64_t query_count) {
  int64_t bytes = 0;
  for_piece(args.dtype, [&]<typename Piece>(TypeTag<Piece>) { bytes = Piece::scratch_bytes(args, query_count); });
  return bytes;
}

void attention_forward(const AttentionForwardArgs& args, const AttentionWork& work) {
  for_piece(args.dtype, [&]<typename Piece>(TypeTag<Piece>) {
    Piece piece(args, work.query_count, reinterpret_cast<uintptr_t>(work.scratch));
    piece.run(work);
  });
}

}  // namespace weft::WEFT_ISA
