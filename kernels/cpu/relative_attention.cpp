// All sums over dims, keys, queries and table rows are small matrix products: what depends on a distance is computed
// for each row of a table once and gathered, and what is summed by distance is summed by row first.
#include "kernels/relative_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/relative_rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/small_matrix.h"

namespace weft {
namespace {

/// One sequence and query head: its inputs, scores and weights.
template <typename T>
class HeadPass {
  using R = Real<T>;

 public:
  HeadPass(const RelativeAttentionArgs& args, const RelativeSequence& sequence, int64_t head)
      : row_ids(args, sequence),
        args_(args),
        sequence_(sequence),
        head_(head),
        queries_(sequence.query_count),
        keys_(sequence.key_count) {
    int64_t kv_head = head / (args.num_heads / args.num_kv_heads);
    int64_t row = args.num_heads * args.head_dim;
    q = load_rows<T>(args.q, sequence.query_begin * row + head * args.head_dim, row, queries_, args.head_dim);
    k = load_rows<T>(
        sequence.keys, kv_head * sequence.key_head_stride, sequence.key_token_stride, keys_, args.head_dim);
    v = load_rows<T>(
        sequence.values, kv_head * sequence.value_head_stride, sequence.value_token_stride, keys_, args.value_dim);
    if (args.rows == nullptr) return;
    query_table = load_table(args.query_table, args.head_dim);
    key_table = load_table(args.key_table, args.head_dim);
    value_table = load_table(args.value_table, args.value_dim);
    bias_table = transposed(load_table(args.bias_table, 1));
  }

  int64_t visible(int64_t query) const {
    if (sequence_.visible_keys != nullptr) return sequence_.visible_keys[query];
    return args_.causal ? keys_ - queries_ + query + 1 : keys_;
  }

  int64_t scores_at(int64_t query) const { return sequence_.scores_begin + (head_ * queries_ + query) * keys_; }

  void compute_scores() {
    scores = product_with_transposed(q, k);
    Matrix<R> query_dots = product_with_transposed(q, query_table);
    Matrix<R> key_dots = product_with_transposed(k, key_table);
    for (int64_t i = 0; i < queries_; ++i) {
      R* row = scores.row(i);
      if (!query_dots.empty()) add_gathered(row, query_dots.row(i), i);
      if (!key_dots.empty()) {
        const int32_t* ids = row_ids.of_query(i);
        for (int64_t j = 0; j < keys_; ++j) row[j] += key_dots.row(j)[ids[j]];
      }
      for (int64_t j = 0; j < keys_; ++j) row[j] *= args_.scale;
      if (!bias_table.empty()) add_gathered(row, bias_table.row(0), i);
      if (args_.previous_scores == nullptr) continue;
      const T* previous = static_cast<const T*>(args_.previous_scores) + scores_at(i);
      for (int64_t j = 0; j < keys_; ++j) row[j] += static_cast<R>(previous[j]);
    }
  }

  void compute_weights() {
    weights = Matrix<R>(queries_, keys_);
    for (int64_t i = 0; i < queries_; ++i) {
      const R* score = scores.row(i);
      R* weight = weights.row(i);
      int64_t seen = visible(i);
      if (args_.normalization == ScoreNormalization::squared_relu) {
        for (int64_t j = 0; j < seen; ++j) {
          R positive = std::max(score[j], R(0));
          weight[j] = positive * positive / static_cast<R>(seen);
        }
        continue;
      }
      R sharpness = sharpness_of(seen);
      for (int64_t j = 0; j < seen; ++j) weight[j] = score[j] * sharpness;
      cpu_loops().softmax({.x = weight, .y = weight, .rows = 1, .width = seen, .dtype = DTypeOf<R>::value}, 0, 1);
    }
  }

  /// Multiplies each pair of a query and a key with what dropout makes of its weight.
  void drop(Matrix<R>& pairs) const {
    if (!args_.dropout.drops()) return;
    for (int64_t i = 0; i < queries_; ++i) {
      uint64_t first = args_.dropout.first_index(sequence_.query_begin + i, head_);
      cpu_loops().dropout({.x = pairs.row(i),
                           .y = pairs.row(i),
                           .rows = 1,
                           .width = keys_,
                           .column_begin = static_cast<int64_t>(first),
                           .probability = args_.dropout.probability,
                           .key = args_.dropout.key,
                           .dtype = DTypeOf<R>::value},
                          0,
                          1);
    }
  }

  void mix(void* out) const {
    Matrix<R> mixed(queries_, args_.value_dim);
    add_product(mixed, weights, v);
    if (!value_table.empty()) add_product(mixed, sums_by_row(weights), value_table);
    int64_t row = args_.num_heads * args_.value_dim;
    store_rows<T>(mixed, out, sequence_.query_begin * row + head_ * args_.value_dim, row);
  }

  void keep_scores(void* to) const { store_rows<T>(scores, to, scores_at(0), keys_); }

  /// The gradient of the weights becomes that of the scores, in place.
  void backward_weights(Matrix<R>& gradient) const {
    for (int64_t i = 0; i < queries_; ++i) {
      R* row = gradient.row(i);
      const R* weight = weights.row(i);
      const R* score = scores.row(i);
      int64_t seen = visible(i);
      std::fill(row + seen, row + keys_, R(0));
      if (args_.normalization == ScoreNormalization::squared_relu) {
        for (int64_t j = 0; j < seen; ++j) row[j] *= 2 * std::max(score[j], R(0)) / static_cast<R>(seen);
        continue;
      }
      R sharpness = sharpness_of(seen);
      R mean = 0;
#pragma omp simd reduction(+ : mean)
      for (int64_t j = 0; j < seen; ++j) mean += row[j] * weight[j];
      for (int64_t j = 0; j < seen; ++j) row[j] = weight[j] * (row[j] - mean) * sharpness;
    }
  }

  /// Adds each key's entry of `by_row`, a query's values for each row of a table.
  void add_gathered(R* to, const R* by_row, int64_t query) const {
    const int32_t* ids = row_ids.of_query(query);
    for (int64_t j = 0; j < keys_; ++j) to[j] += by_row[ids[j]];
  }

  /// [queries, table rows]: the sum over a query's keys.
  Matrix<R> sums_by_row(const Matrix<R>& pairs) const {
    Matrix<R> sums(queries_, row_ids.count());
    for (int64_t i = 0; i < queries_; ++i) {
      const int32_t* ids = row_ids.of_query(i);
      for (int64_t j = 0; j < keys_; ++j) sums.row(i)[ids[j]] += pairs.row(i)[j];
    }
    return sums;
  }

  /// [keys, table rows]: the sum over a key's queries.
  Matrix<R> key_sums_by_row(const Matrix<R>& pairs) const {
    Matrix<R> sums(keys_, row_ids.count());
    for (int64_t i = 0; i < queries_; ++i) {
      const int32_t* ids = row_ids.of_query(i);
      for (int64_t j = 0; j < keys_; ++j) sums.row(j)[ids[j]] += pairs.row(i)[j];
    }
    return sums;
  }

  RowIds row_ids;
  Matrix<R> q, k, v, query_table, key_table, value_table, bias_table, scores, weights;

 private:
  /// The rows that occur.
  Matrix<R> load_table(const DistanceTable& table, int64_t width) const {
    if (table.values == nullptr) return {};
    int64_t first = row_ids.begin() * table.row_stride + head_ * table.head_stride;
    return load_rows<T>(table.values, first, table.row_stride, row_ids.count(), width);
  }

  R sharpness_of(int64_t seen) const {
    if (args_.normalization == ScoreNormalization::softmax) return 1;
    return static_cast<R>(std::log(static_cast<double>(std::max<int64_t>(seen, 16))) / std::log(512.0));
  }

  const RelativeAttentionArgs& args_;
  const RelativeSequence& sequence_;
  int64_t head_, queries_, keys_;
};

template <typename T>
void forward_head(const RelativeAttentionArgs& args, const RelativeSequence& sequence, int64_t head) {
  if (sequence.query_count == 0) return;
  HeadPass<T> pass(args, sequence, head);
  pass.compute_scores();
  pass.compute_weights();
  pass.drop(pass.weights);
  pass.mix(args.out);
  if (args.scores != nullptr) pass.keep_scores(args.scores);
}

/// Adds a head's gradient of a table to the whole table's.
template <typename R>
void add_to_table(void* whole, const DistanceTable& table, int64_t head, const Matrix<R>& gradient) {
  if (whole == nullptr) return;
  R* to = static_cast<R*>(whole) + head * table.head_stride;
  for (int64_t r = 0; r < gradient.rows; ++r) {
    for (int64_t i = 0; i < gradient.width; ++i) to[r * table.row_stride + i] += gradient.row(r)[i];
  }
}

/// Of one head; empty where not wanted.
template <typename R>
struct TableGradients {
  Matrix<R> query, key, value, bias;

  explicit TableGradients(const RelativeAttentionBackwardArgs& args) {
    int64_t rows = args.forward.table_rows;
    if (args.dquery_table != nullptr) query = Matrix<R>(rows, args.forward.head_dim);
    if (args.dkey_table != nullptr) key = Matrix<R>(rows, args.forward.head_dim);
    if (args.dvalue_table != nullptr) value = Matrix<R>(rows, args.forward.value_dim);
    if (args.dbias_table != nullptr) bias = Matrix<R>(rows, 1);
  }
};

/// Of one sequence and kv head, the sum over its query heads.
template <typename R>
struct KeyGradients {
  Matrix<R> dk, dv;
};

template <typename T>
class HeadBackward {
  using R = Real<T>;

 public:
  HeadBackward(const RelativeAttentionBackwardArgs& args, const RelativeSequence& sequence, int64_t head)
      : args_(args), sequence_(sequence), head_(head), pass_(args.forward, sequence, head) {
    pass_.compute_scores();
    pass_.compute_weights();
  }

  void run(KeyGradients<R>& kv, TableGradients<R>& tables) {
    Matrix<R> gradient = backward_values(kv, tables);
    pass_.backward_weights(gradient);
    exchange_scores(gradient);
    backward_scores(gradient, kv, tables);
  }

 private:
  /// Gives the gradient of the weights, as they were before dropout.
  Matrix<R> backward_values(KeyGradients<R>& kv, TableGradients<R>& tables) const {
    int64_t width = args_.forward.value_dim;
    int64_t row = args_.forward.num_heads * width;
    Matrix<R> dout =
        load_rows<T>(args_.dout, sequence_.query_begin * row + head_ * width, row, sequence_.query_count, width);
    Matrix<R> gradient = product_with_transposed(dout, pass_.v);
    Matrix<R> counted;
    if (args_.forward.dropout.drops()) {
      counted = pass_.weights;
      pass_.drop(counted);
    }
    const Matrix<R>& weights = counted.empty() ? pass_.weights : counted;
    add_transposed_product(kv.dv, weights, dout);
    if (!pass_.value_table.empty()) {
      Matrix<R> table_dots = product_with_transposed(dout, pass_.value_table);
      for (int64_t i = 0; i < gradient.rows; ++i) pass_.add_gathered(gradient.row(i), table_dots.row(i), i);
      if (!tables.value.empty()) {
        add_transposed_product(tables.value, pass_.sums_by_row(weights), dout, pass_.row_ids.begin());
      }
    }
    pass_.drop(gradient);
    return gradient;
  }

  /// Takes what the kept scores got and gives what the previous ones get.
  void exchange_scores(Matrix<R>& gradient) const {
    int64_t keys = sequence_.key_count;
    for (int64_t i = 0; args_.dscores != nullptr && i < gradient.rows; ++i) {
      const T* more = static_cast<const T*>(args_.dscores) + pass_.scores_at(i);
      for (int64_t j = 0; j < keys; ++j) gradient.row(i)[j] += static_cast<R>(more[j]);
    }
    if (args_.dprevious_scores != nullptr) store_rows<T>(gradient, args_.dprevious_scores, pass_.scores_at(0), keys);
  }

  void backward_scores(Matrix<R>& gradient, KeyGradients<R>& kv, TableGradients<R>& tables) const {
    int64_t first_row = pass_.row_ids.begin();
    if (!tables.bias.empty()) {
      Matrix<R> sums = pass_.sums_by_row(gradient);
      for (int64_t i = 0; i < sums.rows; ++i) {
        for (int64_t r = 0; r < sums.width; ++r) tables.bias.row(first_row + r)[0] += sums.row(i)[r];
      }
    }
    for (R& cell : gradient.cells) cell *= args_.forward.scale;
    Matrix<R> dq(sequence_.query_count, args_.forward.head_dim);
    add_product(dq, gradient, pass_.k);
    add_transposed_product(kv.dk, gradient, pass_.q);
    if (!pass_.query_table.empty()) {
      Matrix<R> sums = pass_.sums_by_row(gradient);
      add_product(dq, sums, pass_.query_table);
      if (!tables.query.empty()) add_transposed_product(tables.query, sums, pass_.q, first_row);
    }
    if (!pass_.key_table.empty()) {
      Matrix<R> sums = pass_.key_sums_by_row(gradient);
      add_product(kv.dk, sums, pass_.key_table);
      if (!tables.key.empty()) add_transposed_product(tables.key, sums, pass_.k, first_row);
    }
    int64_t row = args_.forward.num_heads * args_.forward.head_dim;
    store_rows<T>(dq, args_.dq, sequence_.query_begin * row + head_ * args_.forward.head_dim, row);
  }

  const RelativeAttentionBackwardArgs& args_;
  const RelativeSequence& sequence_;
  int64_t head_;
  HeadPass<T> pass_;
};

template <typename T>
void backward_kv_head(const RelativeAttentionBackwardArgs& args,
                      const RelativeSequence& sequence,
                      int64_t kv_head,
                      std::vector<TableGradients<Real<T>>>& tables) {
  if (sequence.query_count == 0) return;
  const RelativeAttentionArgs& forward = args.forward;
  int64_t group = forward.num_heads / forward.num_kv_heads;
  KeyGradients<Real<T>> kv{.dk = {sequence.key_count, forward.head_dim}, .dv = {sequence.key_count, forward.value_dim}};
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    HeadBackward<T>(args, sequence, head).run(kv, tables[static_cast<size_t>(head)]);
  }
  int64_t key_row = forward.num_kv_heads * forward.head_dim;
  int64_t value_row = forward.num_kv_heads * forward.value_dim;
  store_rows<T>(kv.dk, args.dk, sequence.query_begin * key_row + kv_head * forward.head_dim, key_row);
  store_rows<T>(kv.dv, args.dv, sequence.query_begin * value_row + kv_head * forward.value_dim, value_row);
}

template <typename T>
void backward_all(const RelativeAttentionBackwardArgs& args, const Stream& stream) {
  const RelativeAttentionArgs& forward = args.forward;
  std::vector<TableGradients<Real<T>>> tables(static_cast<size_t>(forward.num_heads), TableGradients<Real<T>>(args));
  auto sequences = static_cast<int64_t>(forward.sequences.size());
  bool wants_tables = args.dquery_table != nullptr || args.dkey_table != nullptr || args.dvalue_table != nullptr ||
                      args.dbias_table != nullptr;
  if (wants_tables) {
    // A head's sequences one after the other: the sums are the same at every number of threads.
    parallel_for(stream.num_threads, forward.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; ++head) {
        for (const RelativeSequence& sequence : forward.sequences) backward_kv_head<T>(args, sequence, head, tables);
      }
    });
  } else {
    parallel_for(stream.num_threads, sequences * forward.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const RelativeSequence& sequence = forward.sequences[static_cast<size_t>(task / forward.num_kv_heads)];
        backward_kv_head<T>(args, sequence, task % forward.num_kv_heads, tables);
      }
    });
  }
  for (int64_t head = 0; head < forward.num_heads; ++head) {
    const TableGradients<Real<T>>& one = tables[static_cast<size_t>(head)];
    add_to_table(args.dquery_table, forward.query_table, head, one.query);
    add_to_table(args.dkey_table, forward.key_table, head, one.key);
    add_to_table(args.dvalue_table, forward.value_table, head, one.value);
    add_to_table(args.dbias_table, forward.bias_table, head, one.bias);
  }
}

template <typename T>
void forward_all(const RelativeAttentionArgs& args, const Stream& stream) {
  int64_t tasks = static_cast<int64_t>(args.sequences.size()) * args.num_heads;
  parallel_for(stream.num_threads, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      forward_head<T>(args, args.sequences[static_cast<size_t>(task / args.num_heads)], task % args.num_heads);
    }
  });
}

void forward(const RelativeAttentionArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "relative_attention");
  if (args.dtype == DType::f64) return forward_all<double>(args, stream);
  if (args.dtype == DType::f32) return forward_all<float>(args, stream);
  forward_all<bfloat16>(args, stream);
}

void backward(const RelativeAttentionBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.forward.dtype, "relative_attention_backward");
  if (args.forward.dtype == DType::f64) return backward_all<double>(args, stream);
  if (args.forward.dtype == DType::f32) return backward_all<float>(args, stream);
  backward_all<bfloat16>(args, stream);
}

}  // namespace

RelativeAttentionKernels cpu_relative_attention_kernels() {
  return {.forward = forward, .backward = backward};
}

}  // namespace weft
