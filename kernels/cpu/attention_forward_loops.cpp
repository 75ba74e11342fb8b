// Attention of many queries: blocks of keys are packed once for a piece's rows, and pass through tiles of kTileRows
// rows with an online softmax.
#include <type_traits>

#include "kernels/cpu/attention_dropout_rows.h"
#include "kernels/cpu/attention_pack.h"
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

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
        score_scale_(args.mask),
        bias_factor_(static_cast<R>(kLog2E) / score_scale_.factor) {
    ScratchCutter cutter{scratch};
    queries_ = cutter.cut<Element>(padded_rows_ * depth_);
    keys_ = cutter.cut<Element>(depth_ * kKeyBlock);
    values_ = cutter.cut<Element>(width_ * kKeyBlock);
    scores_ = cutter.cut<R>(kTileRows * kKeyBlock);
    weights_ = cutter.cut<Element>(kTileRows * kKeyBlock);
    kept_ = cutter.cut<R>(kKeyBlock);
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

  /// The next kv head's elements, `stride` behind those of this one. Rows lie pages apart, where the processor does not
  /// look ahead itself.
  template <int for_writing>
  WEFT_INLINE void prefetch_next_head(const T* row, int64_t stride, int64_t count) const {
    if (kv_head_ + 1 == args_.num_kv_heads) return;
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + stride + i, for_writing);
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
      prefetch_next_head<0>(from, group_ * args_.head_dim, dims);
    }
  }

  void load_keys(int64_t block, int64_t count) {
    int64_t stride = sequence_->key_token_stride;
    int64_t at = kv_head_ * sequence_->key_head_stride + block * stride;
    const T* keys = static_cast<const T*>(sequence_->keys) + at;
    pack_keys(Product{}, RowsView<T>{keys, stride, count, args_.head_dim}, keys_);
    const T* values = static_cast<const T*>(sequence_->values) + at;
    load_values(RowsView<T>{values, stride, count, args_.head_dim});
    for (int64_t key = 0; key < count; ++key) {
      prefetch_next_head<0>(keys + key * stride, sequence_->key_head_stride, args_.head_dim);
      prefetch_next_head<0>(values + key * stride, sequence_->key_head_stride, args_.head_dim);
    }
  }

  /// Packed, or, where that would cost more than it saves, as they lie.
  void load_values(RowsView<T> values) {
    constexpr int64_t kFewRows = 48;
    int64_t padded_count = round_up(values.count, 2 * kLanes<R>);
    if constexpr (std::is_same_v<Product, FmaProduct<T>>) {
      if (rows_ <= kFewRows && values.count == padded_count && values.dims == width_) {
        value_rows_ = values.data;
        value_stride_ = values.stride;
        return;
      }
    }
    pack_values(Product{}, values, padded_count, width_, values_);
    value_rows_ = values_;
    value_stride_ = width_;
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
    if (args_.bias.values != nullptr) add_bias(row, block, begin, end);
    R rescale[kTileRows];
    for (int r = 0; r < kTileRows; ++r) {
      KeyRange visible = visible_[row + r];
      KeyRange bounds{visible.begin - block, visible.end - block};
      rescale[r] = is_bounded ? soften_row<true>(row + r, r, block, begin, end, bounds)
                              : soften_row<false>(row + r, r, block, begin, end, bounds);
    }
    multiply_rows<Product, kTileRows>({.a = weights_ + begin,
                                       .a_row = kKeyBlock,
                                       .a_step = Product::kDepth,
                                       .b = value_rows_ + begin * value_stride_,
                                       .b_step = value_stride_ * Product::kDepth,
                                       .steps = (end - begin) / Product::kDepth,
                                       .c = out_ + row * width_,
                                       .c_row = width_,
                                       .accumulate = true,
                                       .scale = rescale},
                                      width_);
  }

  /// Adds each row's bias to the tile's products [begin, end), which become what the curve makes of them.
  void add_bias(int64_t row, int64_t block, int64_t begin, int64_t end) {
    for (int r = 0; r < kTileRows; ++r) {
      int64_t of = smaller(row + r, rows_ - 1);
      int64_t head = kv_head_ * group_ + of % group_;
      int64_t at = sequence_->bias_origin + block - (first_query_ + of / group_);
      const R* bias = static_cast<const R*>(args_.bias.values) + head * args_.bias.stride + at;
      R* scores = scores_ + r * kKeyBlock;
      for (int64_t i = begin; i < end; i += kLanes<R>) {
        Vector<R> score = score_scale_.curve(load_vector(scores + i)) + load_vector(bias + i) * bias_factor_;
        store_vector(scores + i, score);
      }
    }
  }

  /// Products [begin, end) of tile row r become weights relative to the row's new maximum; returns what the row's
  /// earlier sums shrink by.
  template <bool is_bounded>
  WEFT_INLINE R soften_row(int64_t row, int r, int64_t block, int64_t begin, int64_t end, KeyRange bounds) {
    R* scores = scores_ + r * kKeyBlock;
    Vector<R> masked = Vector<R>{} + kMaskedScore<R>;
    Vector<R> maximum = masked;
    for (int64_t i = begin; i < end; i += kLanes<R>) {
      Vector<R> score = load_vector(scores + i);
      if (!score_scale_.is_linear && args_.bias.values == nullptr) {
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
    bool drops = args_.dropout.drops();
    if (drops) choose_kept(row, block, begin, end);
    for (int64_t i = begin; i < end; i += 2 * kLanes<R>) {
      Vector<R> first = weights_of<is_bounded>(scores, i, new_maximum, bounds);
      Vector<R> second = weights_of<is_bounded>(scores, i + kLanes<R>, new_maximum, bounds);
      sum += first + second;
      if (drops) {
        first *= load_vector(kept_ + i);
        second *= load_vector(kept_ + i + kLanes<R>);
      }
      store_weights(Product{}, weights_ + r * kKeyBlock + i, first, second);
    }
    R shift = (old_maximum - new_maximum) * score_scale_.factor;
    R rescale = exp2_of_negative(Vector<R>{} + (shift < kNegligible<R> ? kNegligible<R> : shift))[0];
    maximum_[row] = new_maximum;
    R* row_sum = sum_ + row * kLanes<R>;
    store_vector(row_sum, load_vector(row_sum) * rescale + sum);
    return rescale;
  }

  /// kept_[i] = whether the row's weight of key block + i counts, for i in [begin, end).
  void choose_kept(int64_t row, int64_t block, int64_t begin, int64_t end) {
    int64_t of = smaller(row, rows_ - 1);
    uint64_t first = args_.dropout.first_index(sequence_->query_begin + first_query_ + of / group_,
                                               kv_head_ * group_ + of % group_) +
                     static_cast<uint64_t>(block + begin);
    dropout_factors<kKeyBlock>(args_.dropout, first, end - begin, R(1), kept_ + begin);
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
    prefetch_next_head<1>(out, group_ * args_.head_dim, args_.head_dim);
    R sum = horizontal_sum<R>(load_vector(sum_ + row * kLanes<R>));
    R inverse_sum = R(1) / sum;
    if (args_.dropout.drops()) inverse_sum *= static_cast<R>(args_.dropout.kept_scale());
    round_each(out, 0, args_.head_dim, [&](int64_t d) WEFT_INLINE_LAMBDA { return from[d] * inverse_sum; });
    if (args_.log_sum_exp != nullptr) {
      double maximum = static_cast<double>(maximum_[row]) * static_cast<double>(score_scale_.factor) * kLn2;
      double log_sum = maximum + __builtin_log(static_cast<double>(sum));
      static_cast<R*>(args_.log_sum_exp)[element_row(row)] = static_cast<R>(log_sum);
    }
  }

  const AttentionForwardArgs& args_;
  int64_t group_, rows_, padded_rows_, depth_, width_;
  ScoreScale<R> score_scale_;
  R bias_factor_;  // the scale's factor comes after
  const AttentionSequence* sequence_ = nullptr;
  int64_t first_query_ = 0, kv_head_ = 0;
  Element *queries_, *keys_, *values_, *weights_;
  const Element* value_rows_ = nullptr;  // those of the block
  int64_t value_stride_ = 0;
  R *scores_, *out_;
  R* kept_;     // [keys of a block]: 1, or 0 where dropout leaves a row's weight out
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
