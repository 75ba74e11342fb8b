// Backward of attention (Dao, "FlashAttention-2", 2023, algorithm 2): blocks of queries against blocks of keys; weights
// are recomputed from log_sum_exp. One piece is a whole sequence and kv head, so that every sum has one order.
#include <type_traits>

#include "kernels/cpu/attention_dropout_rows.h"
#include "kernels/cpu/attention_pack.h"
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

constexpr int64_t kRowBlock = 192;

/// Rows that are left over when tiles of kTileRows are cut.
template <typename Product, int rows = kTileRows - 1>
WEFT_INLINE void multiply_last_rows(const ProductArgs<Product>& args, int64_t count, int64_t width) {
  if constexpr (rows > 0) {
    if (count == rows) return multiply_rows<Product, rows>(args, width);
    multiply_last_rows<Product, rows - 1>(args, count, width);
  }
}

template <typename Product>
void multiply(ProductArgs<Product> args, int64_t rows, int64_t width) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    multiply_rows<Product, kTileRows>(args, width);
    args.a += kTileRows * args.a_row;
    args.c += kTileRows * args.c_row;
  }
  multiply_last_rows(args, rows, width);
}

/// Where what was computed for kDepth rows and two vectors of keys goes: `by_row` is the left factor of sums over keys,
/// `by_key` of sums over rows. With one row a step they are the same.
template <typename R>
WEFT_INLINE void store_by_key(FmaProduct<R>, R* to, const Vector<R> (&rows)[1][2]) {
  store_vector(to, rows[0][0]);
  store_vector(to + kLanes<R>, rows[0][1]);
}
template <typename R>
WEFT_INLINE void store_by_row(FmaProduct<R>, R*, int64_t, const Vector<R> (&)[1][2]) {}

#if defined(__AVX512BF16__)
WEFT_INLINE void store_by_key(Bf16Product, bfloat16* to, const Vector<float> (&rows)[2][2]) {
  using Halves = uint16_t __attribute__((vector_size(kVectorBytes)));
  constexpr auto kInterleaved = []<int... i>(std::integer_sequence<int, i...>) {
    return Halves{(i / 2 + i % 2 * 16)...};
  }
  (std::make_integer_sequence<int, 32>{});
  for (int half = 0; half < 2; ++half) {
    __m512i joined = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(rows[1][half], rows[0][half]));
    _mm512_storeu_si512(to + half * 32, _mm512_permutexvar_epi16(reinterpret_cast<__m512i>(kInterleaved), joined));
  }
}
WEFT_INLINE void store_by_row(Bf16Product product, bfloat16* to, int64_t stride, const Vector<float> (&rows)[2][2]) {
  for (int r = 0; r < 2; ++r) store_weights(product, to + r * stride, rows[r][0], rows[r][1]);
}
#endif

template <typename Product, typename T>
class BackwardPiece {
  using R = typename Product::Sum;
  using Element = typename Product::Element;
  static constexpr int64_t kDepth = Product::kDepth;
  static constexpr bool kSharesLayouts = kDepth == 1;

 public:
  static int64_t scratch_bytes(const AttentionBackwardArgs& args, int64_t key_count) {
    BackwardPiece piece(args, key_count, 0);
    return piece.scratch_bytes_;
  }

  BackwardPiece(const AttentionBackwardArgs& args, int64_t key_count, uintptr_t scratch)
      : args_(args),
        group_(args.num_heads / args.num_kv_heads),
        queries_per_block_(larger(1, kRowBlock / group_)),
        num_keys_(key_count),
        width_(round_up(args.head_dim, kLanes<R>)),
        score_scale_(args.mask) {
    int64_t rows = round_up(queries_per_block_ * group_, kDepth);
    int64_t keys = round_up(num_keys_, kKeyBlock);
    ScratchCutter cutter{scratch};
    q_ = cutter.cut<Element>(rows * width_);
    dout_ = cutter.cut<Element>(rows * width_);
    q_by_step_ = kSharesLayouts ? q_ : cutter.cut<Element>(rows * width_);
    dout_by_step_ = kSharesLayouts ? dout_ : cutter.cut<Element>(rows * width_);
    dq_ = cutter.cut<R>(rows * width_);
    log_sum_exp_ = cutter.cut<R>(rows);
    delta_ = cutter.cut<R>(rows);
    keys_by_step_ = cutter.cut<Element>(keys * width_);
    transposed_keys_ = cutter.cut<Element>(keys * width_);
    transposed_values_ = cutter.cut<Element>(keys * width_);
    scores_ = cutter.cut<R>(rows * kKeyBlock);
    dweights_ = cutter.cut<R>(rows * kKeyBlock);
    weights_by_key_ = cutter.cut<Element>(rows * kKeyBlock);
    dscores_by_key_ = cutter.cut<Element>(rows * kKeyBlock);
    dscores_by_row_ = kSharesLayouts ? dscores_by_key_ : cutter.cut<Element>(rows * kKeyBlock);
    kept_ = cutter.cut<R>(kDepth * kKeyBlock);
    dk_ = cutter.cut<R>(keys * width_);
    dv_ = cutter.cut<R>(keys * width_);
    scratch_bytes_ = cutter.used;
  }

  void run(const AttentionBackwardWork& work) {
    sequence_ = work.sequence;
    kv_head_ = work.kv_head;
    key_begin_ = work.key_begin;
    dbias_ = static_cast<R*>(work.dbias);
    distances_ = work.distances();
    for (int64_t block = 0; block < num_keys_; block += kKeyBlock) load_keys(block);
    int64_t cells = round_up(num_keys_, kKeyBlock) * width_;
    for (int64_t i = 0; i < cells; ++i) dk_[i] = dv_[i] = 0;
    for (int64_t query = 0; query < sequence_->query_count; query += queries_per_block_) {
      first_query_ = query;
      rows_ = smaller(queries_per_block_, sequence_->query_count - query) * group_;
      padded_rows_ = round_up(rows_, kDepth);
      load_rows();
      first_visible_ = visible_keys(*sequence_, args_.mask, query);
      last_visible_ = visible_keys(*sequence_, args_.mask, query + rows_ / group_ - 1);
      int64_t begin = first_visible_.begin / kKeyBlock * kKeyBlock;
      for (int64_t block = begin; block < last_visible_.end; block += kKeyBlock) process_block(block);
      store_dq();
    }
    store_key_gradients(static_cast<T*>(args_.dk), dk_);
    store_key_gradients(static_cast<T*>(args_.dv), dv_);
  }

 private:
  WEFT_INLINE int64_t element_row(int64_t row) const {
    int64_t query = sequence_->query_begin + first_query_ + row / group_;
    return query * args_.num_heads + kv_head_ * group_ + row % group_;
  }

  void load_rows() {
    for (int64_t row = 0; row < rows_; ++row) load_row(row, element_row(row) * args_.head_dim);
    for (int64_t row = rows_; row < padded_rows_; ++row) {
      for (int64_t d = 0; d < width_; ++d) q_[row * width_ + d] = dout_[row * width_ + d] = Element{};
      delta_[row] = 0;
      log_sum_exp_[row] = -kNegligible<R>;
    }
    for (int64_t i = 0; i < padded_rows_ * width_; ++i) dq_[i] = 0;
    if constexpr (!kSharesLayouts) {
      pack_values(Product{}, RowsView<Element>{q_, width_, rows_, args_.head_dim}, padded_rows_, width_, q_by_step_);
      pack_values(
          Product{}, RowsView<Element>{dout_, width_, rows_, args_.head_dim}, padded_rows_, width_, dout_by_step_);
    }
  }

  WEFT_INLINE void load_row(int64_t row, int64_t at) {
    const T* q = static_cast<const T*>(args_.q) + at;
    const T* out = static_cast<const T*>(args_.out) + at;
    const T* dout = static_cast<const T*>(args_.dout) + at;
    R delta = 0;
#pragma omp simd reduction(+ : delta)
    for (int64_t d = 0; d < args_.head_dim; ++d) delta += load(dout[d]) * load(out[d]);
    delta_[row] = delta;
    log_sum_exp_[row] = static_cast<const R*>(args_.log_sum_exp)[element_row(row)] * static_cast<R>(kLog2E);
    if constexpr (std::is_same_v<T, Element>) {
      __builtin_memcpy(q_ + row * width_, q, static_cast<size_t>(args_.head_dim) * sizeof(T));
      __builtin_memcpy(dout_ + row * width_, dout, static_cast<size_t>(args_.head_dim) * sizeof(T));
    } else {
      for (int64_t d = 0; d < args_.head_dim; ++d) {
        q_[row * width_ + d] = load(q[d]);
        dout_[row * width_ + d] = load(dout[d]);
      }
    }
    for (int64_t d = args_.head_dim; d < width_; ++d) q_[row * width_ + d] = dout_[row * width_ + d] = Element{};
  }

  void load_keys(int64_t block) {
    int64_t stride = args_.num_kv_heads * args_.head_dim;
    int64_t at = ((key_begin_ + block) * args_.num_kv_heads + kv_head_) * args_.head_dim;
    int64_t count = smaller(kKeyBlock, num_keys_ - block);
    RowsView<T> keys{static_cast<const T*>(args_.k) + at, stride, count, args_.head_dim};
    RowsView<T> values{static_cast<const T*>(args_.v) + at, stride, count, args_.head_dim};
    pack_keys(Product{}, keys, transposed_keys_ + block * width_);
    pack_keys(Product{}, values, transposed_values_ + block * width_);
    pack_values(Product{}, keys, round_up(count, 2 * kLanes<R>), width_, keys_by_step_ + block * width_);
  }

  /// The queries of the row block against the keys of a block that any of them sees.
  void process_block(int64_t block) {
    int64_t columns = round_up(smaller(kKeyBlock, last_visible_.end - block), 2 * kLanes<R>);
    multiply_over_dims(q_, transposed_keys_ + block * width_, columns, scores_);
    multiply_over_dims(dout_, transposed_values_ + block * width_, columns, dweights_);
    bool is_bounded = last_visible_.begin > block || first_visible_.end < block + columns;
    for (int64_t row = 0; row < padded_rows_; row += kDepth) {
      if (is_bounded) {
        differentiate_rows<true>(row, block, columns);
      } else {
        differentiate_rows<false>(row, block, columns);
      }
    }
    add_over_rows(weights_by_key_, dout_by_step_, columns, dv_ + block * width_);
    add_over_rows(dscores_by_key_, q_by_step_, columns, dk_ + block * width_);
    multiply<Product>({.a = dscores_by_row_,
                       .a_row = kKeyBlock,
                       .a_step = kDepth,
                       .b = keys_by_step_ + block * width_,
                       .b_step = width_ * kDepth,
                       .steps = columns / kDepth,
                       .c = dq_,
                       .c_row = width_,
                       .accumulate = true},
                      rows_,
                      width_);
  }

  /// [rows, keys] = [rows, dims] · [dims, keys].
  void multiply_over_dims(const Element* rows, const Element* transposed, int64_t columns, R* products) {
    multiply<Product>({.a = rows,
                       .a_row = width_,
                       .a_step = kDepth,
                       .b = transposed,
                       .b_step = kKeyBlock * kDepth,
                       .steps = (args_.head_dim + kDepth - 1) / kDepth,
                       .c = products,
                       .c_row = kKeyBlock},
                      padded_rows_,
                      columns);
  }

  /// [keys, dims] += [rows, keys]ᵀ · [rows, dims].
  void add_over_rows(const Element* by_key, const Element* rows, int64_t columns, R* gradients) {
    multiply<Product>({.a = by_key,
                       .a_row = kDepth,
                       .a_step = kKeyBlock * kDepth,
                       .b = rows,
                       .b_step = width_ * kDepth,
                       .steps = padded_rows_ / kDepth,
                       .c = gradients,
                       .c_row = width_,
                       .accumulate = true},
                      columns,
                      width_);
  }

  /// Products become weights, gradients of weights become gradients of products; for kDepth rows.
  template <bool is_bounded>
  WEFT_INLINE void differentiate_rows(int64_t first_row, int64_t block, int64_t columns) {
    KeyRange bounds[kDepth];
    for (int64_t r = 0; r < kDepth; ++r) {
      KeyRange visible =
          visible_keys(*sequence_, args_.mask, first_query_ + smaller(first_row + r, rows_ - 1) / group_);
      bounds[r] = {visible.begin - block, visible.end - block};
      if (args_.dropout.drops()) choose_kept(first_row + r, block, columns, kept_ + r * kKeyBlock);
    }
    for (int64_t i = 0; i < columns; i += 2 * kLanes<R>) {
      Vector<R> weights[kDepth][2], dscores[kDepth][2];
#pragma GCC unroll 4
      for (int64_t r = 0; r < kDepth; ++r) {
#pragma GCC unroll 4
        for (int64_t half = 0; half < 2; ++half) {
          int64_t key = i + half * kLanes<R>;
          differentiate<is_bounded>(first_row, r, block, key, bounds[r], weights[r][half], dscores[r][half]);
        }
      }
      store_by_key(Product{}, weights_by_key_ + first_row * kKeyBlock + i * kDepth, weights);
      store_by_key(Product{}, dscores_by_key_ + first_row * kKeyBlock + i * kDepth, dscores);
      store_by_row(Product{}, dscores_by_row_ + first_row * kKeyBlock + i, kKeyBlock, dscores);
    }
  }

  /// What the row's weights of keys block, block + 1, … are multiplied with.
  void choose_kept(int64_t row, int64_t block, int64_t columns, R* kept) const {
    int64_t of = smaller(row, rows_ - 1);
    uint64_t first = args_.dropout.first_index(sequence_->query_begin + first_query_ + of / group_,
                                               kv_head_ * group_ + of % group_) +
                     static_cast<uint64_t>(block);
    dropout_factors<kKeyBlock>(args_.dropout, first, columns, static_cast<R>(args_.dropout.kept_scale()), kept);
  }

  template <bool is_bounded>
  WEFT_INLINE void differentiate(int64_t first_row,
                                 int64_t r,
                                 int64_t block,
                                 int64_t key,
                                 KeyRange bounds,
                                 Vector<R>& weight,
                                 Vector<R>& dscore) const {
    int64_t row = first_row + r;
    Vector<R> score = score_scale_(load_vector(scores_ + row * kKeyBlock + key));
    Vector<R> biased = score;
    if (args_.bias.values != nullptr) biased += load_vector(bias_at(row, block + key)) * static_cast<R>(kLog2E);
    weight = exp2_of_negative(biased - log_sum_exp_[row]);
    Vector<R> dweight = load_vector(dweights_ + row * kKeyBlock + key);
    if (args_.dropout.drops()) {
      Vector<R> kept = load_vector(kept_ + r * kKeyBlock + key);
      dscore = weight * (dweight * kept - delta_[row]);
      weight *= kept;
    } else {
      dscore = weight * (dweight - delta_[row]);
    }
    if (dbias_ != nullptr && row < rows_) {
      Vector<R> seen = dscore;
      if constexpr (is_bounded) seen = lanes_between<R>(bounds.begin - key, bounds.end - key) ? seen : Vector<R>{};
      R* to =
          dbias_ + row % group_ * distances_ + sequence_->query_count - 1 + block + key - (first_query_ + row / group_);
      store_vector(to, load_vector(to) + seen);
    }
    dscore *= static_cast<R>(args_.mask.scale);
    if (score_scale_.has_cap) {
      R inverse_cap = R(kLn2) / static_cast<R>(args_.mask.soft_cap);
      dscore *= R(1) - (score * inverse_cap) * (score * inverse_cap);
    }
    if constexpr (is_bounded) {
      IntegerVector<R> is_visible = lanes_between<R>(bounds.begin - key, bounds.end - key);
      weight = is_visible ? weight : Vector<R>{};
      dscore = is_visible ? dscore : Vector<R>{};
    }
  }

  WEFT_INLINE const R* bias_at(int64_t row, int64_t key) const {
    int64_t of = smaller(row, rows_ - 1);
    int64_t head = kv_head_ * group_ + of % group_;
    return static_cast<const R*>(args_.bias.values) + head * args_.bias.stride + sequence_->bias_origin + key -
           (first_query_ + of / group_);
  }

  void store_dq() {
    for (int64_t row = 0; row < rows_; ++row) {
      T* to = static_cast<T*>(args_.dq) + element_row(row) * args_.head_dim;
      for (int64_t d = 0; d < args_.head_dim; ++d) to[d] = round_to<T>(dq_[row * width_ + d]);
    }
  }

  void store_key_gradients(T* gradients, const R* from) {
    for (int64_t key = 0; key < num_keys_; ++key) {
      T* to = gradients + ((key_begin_ + key) * args_.num_kv_heads + kv_head_) * args_.head_dim;
      for (int64_t d = 0; d < args_.head_dim; ++d) to[d] = round_to<T>(from[key * width_ + d]);
    }
  }

  const AttentionBackwardArgs& args_;
  int64_t group_, queries_per_block_, num_keys_, width_;
  ScoreScale<R> score_scale_;
  const AttentionSequence* sequence_ = nullptr;
  R* dbias_ = nullptr;
  int64_t distances_ = 0;
  int64_t kv_head_ = 0, key_begin_ = 0, first_query_ = 0, rows_ = 0, padded_rows_ = 0;
  KeyRange first_visible_, last_visible_;  // of the row block
  Element *q_, *dout_, *q_by_step_, *dout_by_step_;
  Element *keys_by_step_, *transposed_keys_, *transposed_values_;  // a block of keys after the other
  R *dq_, *log_sum_exp_, *delta_, *scores_, *dweights_, *kept_, *dk_, *dv_;
  Element *weights_by_key_, *dscores_by_key_, *dscores_by_row_;
  int64_t scratch_bytes_ = 0;
};

template <typename Body>
WEFT_INLINE void for_backward_piece(DType dtype, const Body& body) {
  if (dtype == DType::f64) {
    body(TypeTag<BackwardPiece<FmaProduct<double>, double>>{});
  } else if (dtype == DType::f32) {
    body(TypeTag<BackwardPiece<FmaProduct<float>, float>>{});
  } else {
#if defined(__AVX512BF16__)
    body(TypeTag<BackwardPiece<Bf16Product, bfloat16>>{});
#else
    body(TypeTag<BackwardPiece<FmaProduct<float>, bfloat16>>{});
#endif
  }
}

}  // namespace

int64_t attention_backward_scratch(const AttentionBackwardArgs& args, int64_t key_count) {
  int64_t bytes = 0;
  for_backward_piece(args.dtype,
                     [&]<typename Piece>(TypeTag<Piece>) { bytes = Piece::scratch_bytes(args, key_count); });
  return bytes;
}

void attention_backward(const AttentionBackwardArgs& args, const AttentionBackwardWork& work) {
  for_backward_piece(args.dtype, [&]<typename Piece>(TypeTag<Piece>) {
    Piece piece(args, work.sequence->key_count, reinterpret_cast<uintptr_t>(work.scratch));
    piece.run(work);
  });
}

}  // namespace weft::WEFT_ISA
