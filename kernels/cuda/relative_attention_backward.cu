#include "kernels/cuda/relative_attention.cuh"

namespace weft::cuda {
namespace {

constexpr int kRowThreads = 128;

/// gradients = dout·vᵀ and, by distance, dout·value tableᵀ from by_query: those of the weights.
template <typename T>
__global__ void __launch_bounds__(kProductThreads) weight_gradients(const __grid_constant__ RelativePass pass) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), width = static_cast<int>(args.value_dim);
  ProductPlace place = place_of_tile(sequence.query_count, sequence.key_count);
  if (!place.is_inside) return;
  StepsAdjacent<T> dout{first_of_queries<T>(pass.args.dout, pass, sequence, head, width), args.num_heads * width};
  StepsAdjacent<T> v{first_of_values<T>(pass, sequence, head), sequence.value_token_stride};
  float sums[4][4] = {};
  add_product(sums, tiles, place, dout, v, width);
  bool has_table = pass.has(args.value_table);
  for_own_results(place, sums, [&](int query, int key, float sum) {
    if (has_table) sum += pass.by_query_row(sequence, head, query)[table_row(pass, sequence, query, key)];
    pass.gradients[pass.pair_row(sequence, head, query) + key] = sum;
  });
}

/// A block for each query and head: gradients of the weights become those of the scores, with what the kept scores
/// got; the previous ones get theirs.
template <typename T>
__global__ void __launch_bounds__(kRowThreads) score_gradients(const __grid_constant__ RelativePass pass) {
  __shared__ float parts[33];
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int query = static_cast<int>(blockIdx.x), head = pass.head_begin + static_cast<int>(blockIdx.y);
  if (query >= sequence.query_count) return;
  const float* weights = pass.weights + pass.pair_row(sequence, head, query);
  float* gradients = pass.gradients + pass.pair_row(sequence, head, query);
  int64_t kept = pass.kept_row(sequence, head, query);
  int seen = seen_keys(pass, sequence, query), first = static_cast<int>(threadIdx.x);
  ScoreNormalization normalization = pass.args.forward.normalization;
  bool is_squared = normalization == ScoreNormalization::squared_relu;
  float mean = 0, sharpness = is_squared ? 0.0f : sharpness_of(normalization, seen);
  if (!is_squared) {
    for (int key = first; key < seen; key += kRowThreads) mean += gradients[key] * weights[key];
    mean = block_sum(mean, parts);
  }
  const T* more = static_cast<const T*>(pass.args.dscores);
  T* previous = static_cast<T*>(pass.args.dprevious_scores);
  for (int key = first; key < sequence.key_count; key += kRowThreads) {
    float gradient = 0;
    if (key < seen && is_squared) {
      // The weight is max(score, 0)²/seen.
      gradient = gradients[key] * 2 * sqrtf(weights[key] * static_cast<float>(seen)) / static_cast<float>(seen);
    } else if (key < seen) {
      gradient = weights[key] * (gradients[key] - mean) * sharpness;
    }
    if (more != nullptr) gradient += to_float(more[kept + key]);
    gradients[key] = gradient;
    if (previous != nullptr) previous[kept + key] = from_float<T>(gradient);
  }
}

/// dq = scale·(gradients·k + by_query·query table), by_query the gradients' sums.
template <typename T>
__global__ void __launch_bounds__(kProductThreads) query_gradients(const __grid_constant__ RelativePass pass) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), table_rows = static_cast<int>(args.table_rows);
  ProductPlace place = place_of_tile(sequence.query_count, static_cast<int>(args.head_dim));
  if (!place.is_inside) return;
  float sums[4][4] = {};
  StepsAdjacent<float> gradients{pass.gradients + pass.pair_row(sequence, head, 0), sequence.key_count};
  RowsAdjacent<T> k{first_of_keys<T>(pass, sequence, head), sequence.key_token_stride};
  add_product(sums, tiles, place, gradients, k, sequence.key_count);
  if (pass.has(args.query_table)) {
    StepsAdjacent<float> by_row{pass.by_query_row(sequence, head, 0), table_rows};
    RowsAdjacent<T> table{first_of_table<T>(args.query_table, head), args.query_table.row_stride};
    add_product(sums, tiles, place, by_row, table, table_rows);
  }
  T* dq = static_cast<T*>(pass.args.dq) + (sequence.query_begin * args.num_heads + head) * args.head_dim;
  for_own_results(place, sums, [&](int query, int i, float sum) {
    dq[static_cast<int64_t>(query) * args.num_heads * args.head_dim + i] = from_float<T>(sum * args.scale);
  });
}

/// dv = Σ over a kv head's query heads of weightsᵀ·dout; dk = scale·Σ of gradientsᵀ·q + by_key·key table, by_key the
/// gradients' sums. Along y of the grid go kv heads.
template <typename T, bool kValues>
__global__ void __launch_bounds__(kProductThreads) key_gradients(const __grid_constant__ RelativePass pass) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int group = static_cast<int>(args.num_heads / args.num_kv_heads), table_rows = static_cast<int>(args.table_rows);
  int kv_head = pass.head_begin / group + static_cast<int>(blockIdx.y);
  int width = static_cast<int>(kValues ? args.value_dim : args.head_dim);
  ProductPlace place = place_of_tile(sequence.key_count, width);
  if (!place.is_inside) return;
  float sums[4][4] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const float* pairs = kValues ? pass.weights : pass.gradients;
    RowsAdjacent<float> by_pair{pairs + pass.pair_row(sequence, head, 0), sequence.key_count};
    const void* queries = kValues ? pass.args.dout : args.q;
    RowsAdjacent<T> x{first_of_queries<T>(queries, pass, sequence, head, width), args.num_heads * width};
    add_product(sums, tiles, place, by_pair, x, sequence.query_count);
    if (kValues || !pass.has(args.key_table)) continue;
    StepsAdjacent<float> by_row{pass.by_key_row(sequence, head, 0), table_rows};
    RowsAdjacent<T> table{first_of_table<T>(args.key_table, head), args.key_table.row_stride};
    add_product(sums, tiles, place, by_row, table, table_rows);
  }
  T* to = static_cast<T*>(kValues ? pass.args.dv : pass.args.dk);
  to += (sequence.query_begin * args.num_kv_heads + kv_head) * width;
  float factor = kValues ? 1.0f : args.scale;
  for_own_results(place, sums, [&](int key, int i, float sum) {
    to[static_cast<int64_t>(key) * args.num_kv_heads * width + i] = from_float<T>(sum * factor);
  });
}

/// A table's gradient += factor·(by_query or by_key)ᵀ·(q, k or dout). Sequences and heads add theirs by atomics, in no
/// certain order.
template <typename T>
__global__ void __launch_bounds__(kProductThreads)
    table_gradients(const __grid_constant__ RelativePass pass, TableSide side) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), table_rows = static_cast<int>(args.table_rows);
  int width = static_cast<int>(side == TableSide::result ? args.value_dim : args.head_dim);
  ProductPlace place = place_of_tile(table_rows, width);
  if (!place.is_inside) return;
  int steps = sequence.query_count;
  RowsAdjacent<float> by_row{pass.by_query_row(sequence, head, 0), table_rows};
  RowsAdjacent<T> x{nullptr, args.num_heads * width};
  DistanceTable table = args.query_table;
  void* whole = pass.args.dquery_table;
  if (side == TableSide::query) {
    x.data = first_of_queries<T>(args.q, pass, sequence, head, width);
  } else if (side == TableSide::key) {
    steps = sequence.key_count;
    by_row.data = pass.by_key_row(sequence, head, 0);
    x = {first_of_keys<T>(pass, sequence, head), sequence.key_token_stride};
    table = args.key_table;
    whole = pass.args.dkey_table;
  } else {
    x.data = first_of_queries<T>(pass.args.dout, pass, sequence, head, width);
    table = args.value_table;
    whole = pass.args.dvalue_table;
  }
  float sums[4][4] = {};
  add_product(sums, tiles, place, by_row, x, steps);
  float* to = static_cast<float*>(whole) + head * table.head_stride;
  float factor = side == TableSide::result ? 1.0f : args.scale;
  for_own_results(place, sums, [&](int row, int i, float sum) {
    if (sum != 0) atomicAdd(to + row * table.row_stride + i, sum * factor);
  });
}

/// The bias table's gradient += the sums over queries of by_query. Blocks of (32, 8) threads.
__global__ void bias_gradients(const __grid_constant__ RelativePass pass) {
  __shared__ float parts[8][33];
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), table_rows = static_cast<int>(args.table_rows);
  int row = static_cast<int>(blockIdx.x) * 32 + static_cast<int>(threadIdx.x);
  const float* by_row = pass.by_query_row(sequence, head, 0);
  float sum = 0;
  for (int query = static_cast<int>(threadIdx.y); row < table_rows && query < sequence.query_count; query += 8) {
    sum += by_row[static_cast<int64_t>(query) * table_rows + row];
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || row >= table_rows) return;
  for (int y = 1; y < 8; ++y) sum += parts[y][threadIdx.x];
  float* to = static_cast<float*>(pass.args.dbias_table) + head * args.bias_table.head_stride;
  if (sum != 0) atomicAdd(to + row * args.bias_table.row_stride, sum);
}

template <typename T>
void launch_table_gradients(const RelativePass& pass, TableSide side, const CudaDevice& device) {
  const RelativeAttentionArgs& args = pass.args.forward;
  int64_t width = side == TableSide::result ? args.value_dim : args.head_dim;
  dim3 grid = product_grid(pass, args.table_rows, width, pass.head_count);
  if (grid.x == 0) return;
  table_gradients<T><<<grid, kProductThreads, 0, device.stream()>>>(pass, side);
  check_launch("relative_attention table gradients");
}

void launch_bias_gradients(const RelativePass& pass, const CudaDevice& device) {
  dim3 grid = {static_cast<unsigned>(ceil_div(pass.args.forward.table_rows, 32)),
               static_cast<unsigned>(pass.head_count),
               static_cast<unsigned>(pass.num_sequences)};
  if (grid.x == 0) return;
  bias_gradients<<<grid, dim3(32, 8), 0, device.stream()>>>(pass);
  check_launch("relative_attention bias gradients");
}

template <typename T, bool kValues>
void launch_key_gradients(const RelativePass& pass, const CudaDevice& device) {
  const RelativeAttentionArgs& args = pass.args.forward;
  int kv_heads = static_cast<int>(pass.head_count / (args.num_heads / args.num_kv_heads));
  dim3 grid = product_grid(pass, pass.most_keys, kValues ? args.value_dim : args.head_dim, kv_heads);
  if (grid.x == 0) return;
  key_gradients<T, kValues><<<grid, kProductThreads, 0, device.stream()>>>(pass);
  check_launch("relative_attention key gradients");
}

/// From dout to the gradients of the weights, then of the scores.
template <typename T>
void backward_weights(const RelativePass& pass, const CudaDevice& device) {
  if (pass.has(pass.args.forward.value_table)) launch_table_products(pass, TableSide::result, device);
  dim3 grid = product_grid(pass, pass.most_queries, pass.most_keys, pass.head_count);
  weight_gradients<T><<<grid, kProductThreads, 0, device.stream()>>>(pass);
  check_launch("relative_attention weight gradients");
  launch_dropout(pass, pass.gradients, device);
  score_gradients<T><<<query_grid(pass), kRowThreads, 0, device.stream()>>>(pass);
  check_launch("relative_attention score gradients");
}

/// From dout to the gradients of the values and their table. Last to read the weights, as it drops them.
template <typename T>
void backward_values(const RelativePass& pass, const CudaDevice& device) {
  launch_dropout(pass, pass.weights, device);
  if (pass.args.dv != nullptr) launch_key_gradients<T, true>(pass, device);
  if (!pass.has(pass.args.forward.value_table) || pass.args.dvalue_table == nullptr) return;
  launch_sums_by_row(pass, pass.weights, false, device);
  launch_table_gradients<T>(pass, TableSide::result, device);
}

/// From the gradients of the scores to those of queries, keys and their tables.
template <typename T>
void backward_scores(const RelativePass& pass, const CudaDevice& device) {
  const RelativeAttentionArgs& args = pass.args.forward;
  bool has_query_table = pass.has(args.query_table), has_key_table = pass.has(args.key_table);
  bool wants_bias = args.rows != nullptr && pass.args.dbias_table != nullptr;
  if (has_query_table || wants_bias) launch_sums_by_row(pass, pass.gradients, false, device);
  if (wants_bias) launch_bias_gradients(pass, device);
  if (has_query_table && pass.args.dquery_table != nullptr) {
    launch_table_gradients<T>(pass, TableSide::query, device);
  }
  if (pass.args.dq != nullptr && args.head_dim > 0) {
    dim3 grid = product_grid(pass, pass.most_queries, args.head_dim, pass.head_count);
    query_gradients<T><<<grid, kProductThreads, 0, device.stream()>>>(pass);
    check_launch("relative_attention query gradients");
  }
  if (has_key_table) launch_sums_by_row(pass, pass.gradients, true, device);
  if (has_key_table && pass.args.dkey_table != nullptr) launch_table_gradients<T>(pass, TableSide::key, device);
  if (pass.args.dk != nullptr) launch_key_gradients<T, false>(pass, device);
}

template <typename T>
void backward_pass(const RelativePass& pass, const CudaDevice& device) {
  launch_weights(pass, device);
  if (pass.most_keys > 0) {
    backward_weights<T>(pass, device);
    backward_values<T>(pass, device);
  }
  backward_scores<T>(pass, device);
}

}  // namespace

void relative_attention_backward(const RelativeAttentionBackwardArgs& args, const Stream& stream) {
  CudaDevice& device = device_of(stream);
  const RelativeAttentionArgs& forward = args.forward;
  RelativeScratch scratch{.gradients = true};
  if (forward.rows != nullptr) {
    scratch.by_query =
        forward.query_table.values != nullptr || forward.value_table.values != nullptr || args.dbias_table != nullptr;
    scratch.by_key = forward.key_table.values != nullptr;
  }
  RelativeAttentionBackwardArgs call = args;
  // The weights are computed again, not kept again.
  call.forward.scores = nullptr;
  dispatch(forward.dtype, "relative_attention backward", [&](auto zero) {
    for_each_pass(
        call, scratch, device, [&](const RelativePass& pass) { backward_pass<decltype(zero)>(pass, device); });
  });
}

}  // namespace weft::cuda
