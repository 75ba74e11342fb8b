#include "kernels/relative_attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

template <typename T>
using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename R>
R dot(const R* a, const R* b, int64_t count) {
  R sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename R>
void add_scaled(R* to, R factor, const R* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

/// Rows of elements as sums are taken in, one after the other.
template <typename T>
std::vector<Real<T>> load_rows(const void* base, int64_t first, int64_t stride, int64_t rows, int64_t width) {
  const T* from = static_cast<const T*>(base) + first;
  std::vector<Real<T>> result(static_cast<size_t>(rows * width));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      result[static_cast<size_t>(r * width + i)] = static_cast<Real<T>>(from[r * stride + i]);
    }
  }
  return result;
}

template <typename T>
void store_rows(const std::vector<Real<T>>& from, void* base, int64_t first, int64_t stride, int64_t width) {
  T* to = static_cast<T*>(base) + first;
  int64_t rows = static_cast<int64_t>(from.size()) / std::max<int64_t>(width, 1);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) to[r * stride + i] = static_cast<T>(from[static_cast<size_t>(r * width + i)]);
  }
}

template <typename T>
std::vector<Real<T>> load_table(const DistanceTable& table, int64_t head, int64_t rows, int64_t width) {
  if (table.values == nullptr) return {};
  return load_rows<T>(table.values, head * table.head_stride, table.row_stride, rows, width);
}

/// One sequence and query head: its inputs, scores and weights.
template <typename T>
class HeadPass {
  using R = Real<T>;

 public:
  HeadPass(const RelativeAttentionArgs& args, const RelativeSequence& sequence, int64_t head)
      : args_(args), sequence_(sequence), head_(head), queries_(sequence.query_count), keys_(sequence.key_count) {
    int64_t kv_head = head / (args.num_heads / args.num_kv_heads);
    int64_t row = args.num_heads * args.head_dim;
    q = load_rows<T>(args.q, sequence.query_begin * row + head * args.head_dim, row, queries_, args.head_dim);
    k = load_rows<T>(
        sequence.keys, kv_head * sequence.key_head_stride, sequence.key_token_stride, keys_, args.head_dim);
    v = load_rows<T>(
        sequence.values, kv_head * sequence.value_head_stride, sequence.value_token_stride, keys_, args.value_dim);
    if (args.rows == nullptr) return;
    query_table = load_table<T>(args.query_table, head, args.table_rows, args.head_dim);
    key_table = load_table<T>(args.key_table, head, args.table_rows, args.head_dim);
    value_table = load_table<T>(args.value_table, head, args.table_rows, args.value_dim);
    bias_table = load_table<T>(args.bias_table, head, args.table_rows, 1);
  }

  int64_t row_of(int64_t query, int64_t key) const {
    int64_t at = sequence_.query_positions != nullptr ? sequence_.query_positions[query] : keys_ - queries_ + query;
    int64_t to = sequence_.key_positions != nullptr ? sequence_.key_positions[key] : key;
    int64_t distance = std::clamp(to - at, -args_.max_distance, args_.max_distance);
    return args_.rows[distance + args_.max_distance];
  }

  int64_t visible(int64_t query) const {
    if (sequence_.visible_keys != nullptr) return sequence_.visible_keys[query];
    return args_.causal ? keys_ - queries_ + query + 1 : keys_;
  }

  int64_t scores_at() const { return sequence_.scores_begin + head_ * queries_ * keys_; }

  void compute_scores() {
    scores.assign(static_cast<size_t>(queries_ * keys_), R(0));
    std::vector<R> query_dots = table_dots(q, queries_, query_table);
    std::vector<R> key_dots = table_dots(k, keys_, key_table);
    for (int64_t i = 0; i < queries_; ++i) {
      R* row = scores.data() + i * keys_;
      for (int64_t j = 0; j < keys_; ++j) {
        R score = dot(q.data() + i * args_.head_dim, k.data() + j * args_.head_dim, args_.head_dim);
        if (args_.rows == nullptr) {
          row[j] = score * args_.scale;
          continue;
        }
        int64_t r = row_of(i, j);
        if (!query_dots.empty()) score += query_dots[static_cast<size_t>(i * args_.table_rows + r)];
        if (!key_dots.empty()) score += key_dots[static_cast<size_t>(j * args_.table_rows + r)];
        row[j] = score * args_.scale;
        if (!bias_table.empty()) row[j] += bias_table[static_cast<size_t>(r)];
      }
    }
    if (args_.previous_scores == nullptr) return;
    const T* previous = static_cast<const T*>(args_.previous_scores) + scores_at();
    for (size_t i = 0; i < scores.size(); ++i) scores[i] += static_cast<R>(previous[i]);
  }

  void compute_weights() {
    weights.assign(scores.size(), R(0));
    for (int64_t i = 0; i < queries_; ++i) {
      const R* score = scores.data() + i * keys_;
      R* weight = weights.data() + i * keys_;
      int64_t seen = visible(i);
      if (args_.normalization == ScoreNormalization::squared_relu) {
        for (int64_t j = 0; j < seen; ++j) {
          R positive = std::max(score[j], R(0));
          weight[j] = positive * positive / static_cast<R>(seen);
        }
        continue;
      }
      R sharpness = sharpness_of(seen);
      R largest = *std::max_element(score, score + seen);
      R sum = 0;
      for (int64_t j = 0; j < seen; ++j) sum += weight[j] = std::exp((score[j] - largest) * sharpness);
      for (int64_t j = 0; j < seen; ++j) weight[j] /= sum;
    }
  }

  void mix(void* out) const {
    int64_t width = args_.value_dim;
    std::vector<R> mixed(static_cast<size_t>(queries_ * width));
    for (int64_t i = 0; i < queries_; ++i) {
      R* to = mixed.data() + i * width;
      int64_t seen = visible(i);
      for (int64_t j = 0; j < seen; ++j) {
        R weight = weights[static_cast<size_t>(i * keys_ + j)];
        add_scaled(to, weight, v.data() + j * width, width);
        if (!value_table.empty()) add_scaled(to, weight, value_table.data() + row_of(i, j) * width, width);
      }
    }
    int64_t row = args_.num_heads * width;
    store_rows<T>(mixed, out, sequence_.query_begin * row + head_ * width, row, width);
  }

  void keep_scores(void* to) const {
    T* kept = static_cast<T*>(to) + scores_at();
    for (size_t i = 0; i < scores.size(); ++i) kept[i] = static_cast<T>(scores[i]);
  }

  /// The gradient of the weights becomes that of the scores, in place.
  void backward_weights(std::vector<R>& gradient) const {
    for (int64_t i = 0; i < queries_; ++i) {
      R* row = gradient.data() + i * keys_;
      const R* weight = weights.data() + i * keys_;
      const R* score = scores.data() + i * keys_;
      int64_t seen = visible(i);
      for (int64_t j = seen; j < keys_; ++j) row[j] = 0;
      if (args_.normalization == ScoreNormalization::squared_relu) {
        for (int64_t j = 0; j < seen; ++j) row[j] *= 2 * std::max(score[j], R(0)) / static_cast<R>(seen);
        continue;
      }
      R sharpness = sharpness_of(seen);
      R mean = dot(row, weight, seen);
      for (int64_t j = 0; j < seen; ++j) row[j] = weight[j] * (row[j] - mean) * sharpness;
    }
  }

  int64_t queries() const { return queries_; }
  int64_t keys() const { return keys_; }

  std::vector<R> q, k, v, query_table, key_table, value_table, bias_table, scores, weights;

 private:
  R sharpness_of(int64_t seen) const {
    if (args_.normalization == ScoreNormalization::softmax) return 1;
    return static_cast<R>(std::log(static_cast<double>(std::max<int64_t>(seen, 16))) / std::log(512.0));
  }

  /// x·table for all rows of both.
  std::vector<R> table_dots(const std::vector<R>& x, int64_t rows, const std::vector<R>& table) const {
    if (table.empty()) return {};
    std::vector<R> result(static_cast<size_t>(rows * args_.table_rows));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t r = 0; r < args_.table_rows; ++r) {
        result[static_cast<size_t>(i * args_.table_rows + r)] =
            dot(x.data() + i * args_.head_dim, table.data() + r * args_.head_dim, args_.head_dim);
      }
    }
    return result;
  }

  const RelativeAttentionArgs& args_;
  const RelativeSequence& sequence_;
  int64_t head_, queries_, keys_;
};

template <typename T>
void forward_head(const RelativeAttentionArgs& args, const RelativeSequence& sequence, int64_t head) {
  HeadPass<T> pass(args, sequence, head);
  pass.compute_scores();
  pass.compute_weights();
  pass.mix(args.out);
  if (args.scores != nullptr) pass.keep_scores(args.scores);
}

/// Adds a head's gradient of a table to the whole table's.
template <typename R>
void add_to_table(
    void* whole, const DistanceTable& table, int64_t head, const std::vector<R>& gradient, int64_t width) {
  if (whole == nullptr) return;
  R* to = static_cast<R*>(whole) + head * table.head_stride;
  int64_t rows = static_cast<int64_t>(gradient.size()) / width;
  for (int64_t r = 0; r < rows; ++r) add_scaled(to + r * table.row_stride, R(1), gradient.data() + r * width, width);
}

template <typename R>
struct TableGradients {
  std::vector<R> query, key, value, bias;

  TableGradients(const RelativeAttentionBackwardArgs& args)
      : query(args.dquery_table != nullptr ? args.forward.table_rows * args.forward.head_dim : 0),
        key(args.dkey_table != nullptr ? args.forward.table_rows * args.forward.head_dim : 0),
        value(args.dvalue_table != nullptr ? args.forward.table_rows * args.forward.value_dim : 0),
        bias(args.dbias_table != nullptr ? args.forward.table_rows : 0) {}
};

template <typename T>
struct KeyGradients {
  std::vector<Real<T>> dk, dv;
};

template <typename T>
void backward_head(const RelativeAttentionBackwardArgs& args,
                   const RelativeSequence& sequence,
                   int64_t head,
                   KeyGradients<T>& kv,
                   TableGradients<Real<T>>& tables) {
  using R = Real<T>;
  const RelativeAttentionArgs& forward = args.forward;
  HeadPass<T> pass(forward, sequence, head);
  pass.compute_scores();
  pass.compute_weights();
  int64_t depth = forward.head_dim;
  int64_t width = forward.value_dim;
  int64_t keys = pass.keys();
  int64_t out_row = forward.num_heads * width;
  std::vector<R> dout =
      load_rows<T>(args.dout, sequence.query_begin * out_row + head * width, out_row, pass.queries(), width);
  std::vector<R> gradient(pass.scores.size());
  for (int64_t i = 0; i < pass.queries(); ++i) {
    const R* dmixed = dout.data() + i * width;
    int64_t seen = pass.visible(i);
    for (int64_t j = 0; j < seen; ++j) {
      int64_t r = forward.rows == nullptr ? 0 : pass.row_of(i, j);
      R weight = pass.weights[static_cast<size_t>(i * keys + j)];
      R sum = dot(dmixed, pass.v.data() + j * width, width);
      if (!pass.value_table.empty()) sum += dot(dmixed, pass.value_table.data() + r * width, width);
      gradient[static_cast<size_t>(i * keys + j)] = sum;
      add_scaled(kv.dv.data() + j * width, weight, dmixed, width);
      if (!tables.value.empty()) add_scaled(tables.value.data() + r * width, weight, dmixed, width);
    }
  }
  pass.backward_weights(gradient);
  if (args.dscores != nullptr) {
    const T* more = static_cast<const T*>(args.dscores) + pass.scores_at();
    for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += static_cast<R>(more[i]);
  }
  if (args.dprevious_scores != nullptr) {
    T* previous = static_cast<T*>(args.dprevious_scores) + pass.scores_at();
    for (size_t i = 0; i < gradient.size(); ++i) previous[i] = static_cast<T>(gradient[i]);
  }
  std::vector<R> dq(pass.q.size());
  for (int64_t i = 0; i < pass.queries(); ++i) {
    const R* query = pass.q.data() + i * depth;
    R* dquery = dq.data() + i * depth;
    for (int64_t j = 0; j < keys; ++j) {
      R change = gradient[static_cast<size_t>(i * keys + j)];
      int64_t r = forward.rows == nullptr ? 0 : pass.row_of(i, j);
      if (!tables.bias.empty()) tables.bias[static_cast<size_t>(r)] += change;
      R scaled = change * forward.scale;
      const R* key = pass.k.data() + j * depth;
      add_scaled(dquery, scaled, key, depth);
      add_scaled(kv.dk.data() + j * depth, scaled, query, depth);
      if (!pass.query_table.empty()) add_scaled(dquery, scaled, pass.query_table.data() + r * depth, depth);
      if (!pass.key_table.empty())
        add_scaled(kv.dk.data() + j * depth, scaled, pass.key_table.data() + r * depth, depth);
      if (!tables.query.empty()) add_scaled(tables.query.data() + r * depth, scaled, query, depth);
      if (!tables.key.empty()) add_scaled(tables.key.data() + r * depth, scaled, key, depth);
    }
  }
  int64_t row = forward.num_heads * depth;
  store_rows<T>(dq, args.dq, sequence.query_begin * row + head * depth, row, depth);
}

template <typename T>
void backward_kv_head(const RelativeAttentionBackwardArgs& args,
                      const RelativeSequence& sequence,
                      int64_t kv_head,
                      std::vector<TableGradients<Real<T>>>& tables) {
  const RelativeAttentionArgs& forward = args.forward;
  int64_t group = forward.num_heads / forward.num_kv_heads;
  KeyGradients<T> kv;
  kv.dk.resize(static_cast<size_t>(sequence.key_count * forward.head_dim));
  kv.dv.resize(static_cast<size_t>(sequence.key_count * forward.value_dim));
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    backward_head<T>(args, sequence, head, kv, tables[static_cast<size_t>(head)]);
  }
  int64_t key_row = forward.num_kv_heads * forward.head_dim;
  int64_t value_row = forward.num_kv_heads * forward.value_dim;
  store_rows<T>(kv.dk, args.dk, sequence.query_begin * key_row + kv_head * forward.head_dim, key_row, forward.head_dim);
  store_rows<T>(
      kv.dv, args.dv, sequence.query_begin * value_row + kv_head * forward.value_dim, value_row, forward.value_dim);
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
    add_to_table(args.dquery_table, forward.query_table, head, one.query, forward.head_dim);
    add_to_table(args.dkey_table, forward.key_table, head, one.key, forward.head_dim);
    add_to_table(args.dvalue_table, forward.value_table, head, one.value, forward.value_dim);
    add_to_table(args.dbias_table, forward.bias_table, head, one.bias, int64_t{1});
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
