// Backward of attention (Dao, "FlashAttention-2", 2023, algorithm 2): blocks of queries against blocks of keys; weights
// are recomputed from log_sum_exp. One piece is a whole sequence and kv head, so that every sum has one order.
#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

constexpr int64_t kKeyBlock = 128;
constexpr int64_t kRowBlock = 192;

template <typename T>
class BackwardPiece {
  using R = Real<T>;
  using Product = FmaProduct<R>;

 public:
  static int64_t scratch_bytes(const AttentionBackwardArgs& args, int64_t query_count) {
    BackwardPiece piece(args, query_count, 0);
    return piece.scratch_bytes_;
  }

  BackwardPiece(const AttentionBackwardArgs& args, int64_t query_count, uintptr_t scratch)
      : args_(args),
        group_(args.num_heads / args.num_kv_heads),
        queries_per_block_(larger(1, kRowBlock / group_)),
        num_keys_(query_count),
        width_(round_up(args.head_dim, kLanes<R>)),
        score_scale_(args.mask) {
    int64_t rows = queries_per_block_ * group_;
    ScratchCutter cutter{scratch};
    q_ = cutter.cut<R>(rows * width_);
    dout_ = cutter.cut<R>(rows * width_);
    dq_ = cutter.cut<R>(rows * width_);
    log_sum_exp_ = cutter.cut<R>(rows);
    delta_ = cutter.cut<R>(rows);
    keys_ = cutter.cut<R>(kKeyBlock * width_);
    transposed_keys_ = cutter.cut<R>(width_ * kKeyBlock);
    transposed_values_ = cutter.cut<R>(width_ * kKeyBlock);
    weights_ = cutter.cut<R>(rows * kKeyBlock);
    dweights_ = cutter.cut<R>(rows * kKeyBlock);
    dk_ = cutter.cut<R>(round_up(num_keys_, kKeyBlock) * width_);
    dv_ = cutter.cut<R>(round_up(num_keys_, kKeyBlock) * width_);
    scratch_bytes_ = cutter.used;
  }

  void run(const AttentionBackwardWork& work) {
    sequence_ = work.sequence;
    kv_head_ = work.kv_head;
    key_begin_ = work.key_begin;
    int64_t cells = round_up(num_keys_, kKeyBlock) * width_;
    for (int64_t i = 0; i < cells; ++i) dk_[i] = dv_[i] = 0;
    for (int64_t query = 0; query < sequence_->query_count; query += queries_per_block_) {
      first_query_ = query;
      rows_ = smaller(queries_per_block_, sequence_->query_count - query) * group_;
      load_rows();
      int64_t begin = visible_keys(*sequence_, args_.mask, query).begin / kKeyBlock * kKeyBlock;
      int64_t end = visible_keys(*sequence_, args_.mask, query + rows_ / group_ - 1).end;
      for (int64_t block = begin; block < end; block += kKeyBlock) process_block(block);
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
    for (int64_t row = 0; row < rows_; ++row) {
      int64_t at = element_row(row) * args_.head_dim;
      const T* q = static_cast<const T*>(args_.q) + at;
      const T* out = static_cast<const T*>(args_.out) + at;
      const T* dout = static_cast<const T*>(args_.dout) + at;
      R delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int64_t d = 0; d < args_.head_dim; ++d) {
        q_[row * width_ + d] = load(q[d]);
        dout_[row * width_ + d] = load(dout[d]);
        delta += load(dout[d]) * load(out[d]);
      }
      for (int64_t d = args_.head_dim; d < width_; ++d) q_[row * width_ + d] = dout_[row * width_ + d] = 0;
      for (int64_t d = 0; d < width_; ++d) dq_[row * width_ + d] = 0;
      delta_[row] = delta;
      log_sum_exp_[row] = static_cast<const R*>(args_.log_sum_exp)[element_row(row)] * static_cast<R>(kLog2E);
    }
  }

  void load_keys(int64_t block) {
    for (int64_t key = 0; key < kKeyBlock; ++key) {
      bool exists = block + key < num_keys_;
      int64_t row = (key_begin_ + (exists ? block + key : 0)) * args_.num_kv_heads + kv_head_;
      const T* k = static_cast<const T*>(args_.k) + row * args_.head_dim;
      const T* v = static_cast<const T*>(args_.v) + row * args_.head_dim;
      int64_t dims = exists ? args_.head_dim : 0;
      for (int64_t d = 0; d < dims; ++d) {
        R element = load(k[d]);
        keys_[key * width_ + d] = element;
        transposed_keys_[d * kKeyBlock + key] = element;
        transposed_values_[d * kKeyBlock + key] = load(v[d]);
      }
      for (int64_t d = dims; d < width_; ++d) {
        keys_[key * width_ + d] = transposed_keys_[d * kKeyBlock + key] = transposed_values_[d * kKeyBlock + key] = 0;
      }
    }
  }

  void process_block(int64_t block) {
    load_keys(block);
    multiply_over_dims(q_, transposed_keys_, weights_);
    multiply_over_dims(dout_, transposed_values_, dweights_);
    for (int64_t row = 0; row < rows_; ++row) differentiate_row(row, block);
    add_over_rows(weights_, dout_, dv_ + block * width_);
    add_over_rows(dweights_, q_, dk_ + block * width_);
    multiply_any_rows<Product>({.a = dweights_,
                                .a_row = kKeyBlock,
                                .a_step = 1,
                                .b = keys_,
                                .b_step = width_,
                                .steps = kKeyBlock,
                                .c = dq_,
                                .c_row = width_,
                                .accumulate = true},
                               rows_,
                               width_);
  }

  /// [rows, keys] = [rows, dims] · [dims, keys].
  void multiply_over_dims(const R* rows, const R* transposed, R* products) {
    multiply_any_rows<Product>({.a = rows,
                                .a_row = width_,
                                .a_step = 1,
                                .b = transposed,
                                .b_step = kKeyBlock,
                                .steps = args_.head_dim,
                                .c = products,
                                .c_row = kKeyBlock},
                               rows_,
                               kKeyBlock);
  }

  /// [keys, dims] += [rows, keys]ᵀ · [rows, dims].
  void add_over_rows(const R* weights, const R* rows, R* gradients) {
    multiply_any_rows<Product>({.a = weights,
                                .a_row = 1,
                                .a_step = kKeyBlock,
                                .b = rows,
                                .b_step = width_,
                                .steps = rows_,
                                .c = gradients,
                                .c_row = width_,
                                .accumulate = true},
                               kKeyBlock,
                               width_);
  }

  /// Products become weights, gradients of weights become gradients of products.
  WEFT_INLINE void differentiate_row(int64_t row, int64_t block) {
    KeyRange visible = visible_keys(*sequence_, args_.mask, first_query_ + row / group_);
    R* weights = weights_ + row * kKeyBlock;
    R* dweights = dweights_ + row * kKeyBlock;
    R inverse_cap = R(kLn2) / (score_scale_.has_cap ? static_cast<R>(args_.mask.soft_cap) : R(1));
    for (int64_t i = 0; i < kKeyBlock; i += kLanes<R>) {
      IntegerVector<R> is_visible = lanes_between<R>(visible.begin - block - i, visible.end - block - i);
      Vector<R> score = score_scale_(load_vector(weights + i));
      Vector<R> weight = exp2_of_negative(score - log_sum_exp_[row]);
      Vector<R> gradient = weight * (load_vector(dweights + i) - delta_[row]) * static_cast<R>(args_.mask.scale);
      if (score_scale_.has_cap) gradient *= R(1) - (score * inverse_cap) * (score * inverse_cap);
      store_vector(weights + i, is_visible ? weight : Vector<R>{});
      store_vector(dweights + i, is_visible ? gradient : Vector<R>{});
    }
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
  int64_t kv_head_ = 0, key_begin_ = 0, first_query_ = 0, rows_ = 0;
  R *q_, *dout_, *dq_, *log_sum_exp_, *delta_;
  R *keys_, *transposed_keys_, *transposed_values_, *weights_, *dweights_, *dk_, *dv_;
  int64_t scratch_bytes_ = 0;
};

}  // namespace

int64_t attention_backward_scratch(const AttentionBackwardArgs& args, int64_t query_count) {
  int64_t bytes = 0;
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { bytes = BackwardPiece<T>::scratch_bytes(args, query_count); });
  return bytes;
}

void attention_backward(const AttentionBackwardArgs& args, const AttentionBackwardWork& work) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) {
    BackwardPiece<T> piece(args, work.sequence->query_count, reinterpret_cast<uintptr_t>(work.scratch));
    piece.run(work);
  });
}

}  // namespace weft::WEFT_ISA
