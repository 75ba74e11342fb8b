// Splits a call into passes; scores, weights and what both directions need of the tables.
#include <vector>

#include "kernels/cuda/attention_dropout.cuh"
#include "kernels/cuda/relative_attention.cuh"

namespace weft::cuda {
namespace {

constexpr int kRowThreads = 128;
constexpr int kSumWarps = 8;

/// Numbers that a pass may take for its scores and for what it keeps of each row of the tables.
constexpr int64_t kMostNumbers = int64_t{32} << 20;

std::vector<int32_t> all_host_arrays(const RelativeAttentionArgs& args) {
  std::vector<int32_t> all;
  auto add = [&](const int32_t* array, int64_t count) {
    if (array != nullptr) all.insert(all.end(), array, array + count);
  };
  add(args.rows, 2 * args.max_distance + 1);
  for (const RelativeSequence& sequence : args.sequences) {
    add(sequence.visible_keys, sequence.query_count);
    add(sequence.query_positions, sequence.query_count);
    add(sequence.key_positions, sequence.key_count);
  }
  return all;
}

/// The sequences that have queries, with their arrays' copies, which stand one after the other as in all_host_arrays.
std::vector<RelativeSpan> spans_of(const RelativeAttentionArgs& args, const int32_t* copies) {
  auto next = [&](const int32_t* array, int64_t count) {
    const int32_t* copy = array != nullptr ? copies : nullptr;
    if (array != nullptr) copies += count;
    return copy;
  };
  std::vector<RelativeSpan> spans;
  next(args.rows, 2 * args.max_distance + 1);
  for (const RelativeSequence& sequence : args.sequences) {
    RelativeSpan span = {};
    span.keys = sequence.keys;
    span.values = sequence.values;
    span.visible_keys = next(sequence.visible_keys, sequence.query_count);
    span.query_positions = next(sequence.query_positions, sequence.query_count);
    span.key_positions = next(sequence.key_positions, sequence.key_count);
    span.query_begin = sequence.query_begin;
    span.query_count = static_cast<int>(sequence.query_count);
    span.key_count = static_cast<int>(sequence.key_count);
    span.key_token_stride = sequence.key_token_stride;
    span.key_head_stride = sequence.key_head_stride;
    span.value_token_stride = sequence.value_token_stride;
    span.value_head_stride = sequence.value_head_stride;
    span.scores_begin = sequence.scores_begin;
    if (span.query_count > 0) spans.push_back(span);
  }
  return spans;
}

/// Of the sequences in a pass, for one head.
struct PassSize {
  int64_t pairs = 0, queries = 0, keys = 0;
  int64_t numbers(int64_t table_rows) const { return pairs + (queries + keys) * table_rows; }
};

PassSize operator+(const PassSize& size, const RelativeSpan& span) {
  return {.pairs = size.pairs + static_cast<int64_t>(span.query_count) * span.key_count,
          .queries = size.queries + span.query_count,
          .keys = size.keys + span.key_count};
}

/// Appends a sequence to the pass; false, and nothing is done, when it doesn't fit. The first one always does.
bool append(RelativePass& pass, PassSize& size, const RelativeSpan& span, int64_t table_rows) {
  int64_t numbers = (size + span).numbers(table_rows) * pass.args.forward.num_heads;
  if (pass.num_sequences == RelativePass::kMostSequences) return false;
  if (pass.num_sequences > 0 && numbers > kMostNumbers) return false;
  RelativeSpan& placed = pass.sequences[pass.num_sequences++];
  placed = span;
  placed.pairs_before = size.pairs;
  placed.queries_before = size.queries;
  placed.keys_before = size.keys;
  if (span.query_count > pass.most_queries) pass.most_queries = span.query_count;
  if (span.key_count > pass.most_keys) pass.most_keys = span.key_count;
  size = size + span;
  return true;
}

/// Query heads that fit in a pass, whole groups of one kv head.
int heads_of_pass(const RelativeAttentionArgs& args, int64_t numbers_of_head) {
  int64_t group = args.num_heads / args.num_kv_heads;
  int64_t groups = numbers_of_head > 0 ? kMostNumbers / (numbers_of_head * group) : args.num_kv_heads;
  groups = groups < 1 ? 1 : groups > args.num_kv_heads ? args.num_kv_heads : groups;
  return static_cast<int>(groups * group);
}

void run_heads(RelativePass& pass,
               const PassSize& size,
               const RelativeScratch& scratch,
               CudaDevice& device,
               const std::function<void(const RelativePass&)>& body) {
  const RelativeAttentionArgs& args = pass.args.forward;
  int heads = heads_of_pass(args, size.numbers(args.rows != nullptr ? args.table_rows : 0));
  auto matrix = [&](bool wanted, int64_t numbers) {
    return wanted && numbers > 0 ? DeviceBuffer<float>(device, numbers * heads) : DeviceBuffer<float>();
  };
  DeviceBuffer<float> weights = matrix(true, size.pairs), gradients = matrix(scratch.gradients, size.pairs);
  DeviceBuffer<float> by_query = matrix(scratch.by_query, size.queries * args.table_rows);
  DeviceBuffer<float> by_key = matrix(scratch.by_key, size.keys * args.table_rows);
  pass.weights = weights.data();
  pass.gradients = gradients.data();
  pass.by_query = by_query.data();
  pass.by_key = by_key.data();
  for (int head = 0; head < static_cast<int>(args.num_heads); head += heads) {
    int left = static_cast<int>(args.num_heads) - head;
    pass.head_begin = head;
    pass.head_count = left < heads ? left : heads;
    body(pass);
  }
}

/// Rows of the tables' products and sums by row.
template <typename T>
__global__ void __launch_bounds__(kProductThreads)
    multiply_table(const __grid_constant__ RelativePass pass, TableSide side) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), table_rows = static_cast<int>(args.table_rows);
  bool is_key = side == TableSide::key;
  ProductPlace place = place_of_tile(is_key ? sequence.key_count : sequence.query_count, table_rows);
  if (!place.is_inside) return;
  int width = static_cast<int>(side == TableSide::result ? args.value_dim : args.head_dim);
  StepsAdjacent<T> lines{nullptr, args.num_heads * width};
  DistanceTable table = args.query_table;
  if (side == TableSide::query) {
    lines.data = first_of_queries<T>(args.q, pass, sequence, head, width);
  } else if (is_key) {
    lines = {first_of_keys<T>(pass, sequence, head), sequence.key_token_stride};
    table = args.key_table;
  } else {
    lines.data = first_of_queries<T>(pass.args.dout, pass, sequence, head, width);
    table = args.value_table;
  }
  float sums[4][4] = {};
  add_product(sums, tiles, place, lines, StepsAdjacent<T>{first_of_table<T>(table, head), table.row_stride}, width);
  float* to = is_key ? pass.by_key_row(sequence, head, 0) : pass.by_query_row(sequence, head, 0);
  for_own_results(
      place, sums, [&](int row, int column, float sum) { to[static_cast<int64_t>(row) * table_rows + column] = sum; });
}

/// Adds up the values of the lanes in `peers`, the lanes of equal key that the lane belongs to; the lowest of them gets
/// the sum. In each round the lanes left add what the next one left has, and every other one leaves.
__device__ __forceinline__ float sum_of_peers(unsigned peers, float value) {
  int lane = static_cast<int>(threadIdx.x) % 32;
  int rank = __popc(peers & ((1u << lane) - 1));
  peers &= 0xfffffffeu << lane;
  while (__any_sync(0xffffffffu, peers != 0)) {
    int next = __ffs(static_cast<int>(peers));
    float other = __shfl_sync(0xffffffffu, value, (next - 1) & 31);
    if (next != 0) value += other;
    peers &= ~__ballot_sync(0xffffffffu, (rank & 1) != 0);
    rank >>= 1;
  }
  return value;
}

/// A warp takes a query (a key) and its pairs 32 at a time.
template <bool kByKey>
__global__ void __launch_bounds__(32 * kSumWarps)
    sum_by_row(const __grid_constant__ RelativePass pass, const float* __restrict__ pairs) {
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x) % 32;
  int line = static_cast<int>(blockIdx.x) * kSumWarps + static_cast<int>(threadIdx.x) / 32;
  if (line >= (kByKey ? sequence.key_count : sequence.query_count)) return;
  int others = kByKey ? sequence.query_count : sequence.key_count;
  const float* from = pairs + pass.pair_row(sequence, head, kByKey ? 0 : line) + (kByKey ? line : 0);
  float* sums = kByKey ? pass.by_key_row(sequence, head, line) : pass.by_query_row(sequence, head, line);
  for (int row = lane; row < static_cast<int>(pass.args.forward.table_rows); row += 32) sums[row] = 0;
  __syncwarp();
  for (int first = 0; first < others; first += 32) {
    int other = first + lane, row = -1;
    float value = 0;
    if (other < others) {
      value = from[kByKey ? static_cast<int64_t>(other) * sequence.key_count : other];
      row = table_row(pass, sequence, kByKey ? other : line, kByKey ? line : other);
    }
    unsigned peers = __match_any_sync(0xffffffffu, row);
    value = sum_of_peers(peers, value);
    if (row >= 0 && __ffs(static_cast<int>(peers)) - 1 == lane) sums[row] += value;
    __syncwarp();
  }
}

template <typename T>
__device__ __forceinline__ float finish_score(
    const RelativePass& pass, const RelativeSpan& sequence, int head, int query, int key, float score) {
  const RelativeAttentionArgs& args = pass.args.forward;
  int row = args.rows != nullptr ? table_row(pass, sequence, query, key) : 0;
  if (pass.has(args.query_table)) score += pass.by_query_row(sequence, head, query)[row];
  if (pass.has(args.key_table)) score += pass.by_key_row(sequence, head, key)[row];
  score *= args.scale;
  if (pass.has(args.bias_table)) {
    score += to_float(first_of_table<T>(args.bias_table, head)[row * args.bias_table.row_stride]);
  }
  int64_t kept = pass.kept_row(sequence, head, query) + key;
  if (args.previous_scores != nullptr) score += to_float(static_cast<const T*>(args.previous_scores)[kept]);
  if (args.scores != nullptr) static_cast<T*>(args.scores)[kept] = from_float<T>(score);
  return score;
}

template <typename T>
__global__ void __launch_bounds__(kProductThreads) multiply_keys(const __grid_constant__ RelativePass pass) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), width = static_cast<int>(args.head_dim);
  ProductPlace place = place_of_tile(sequence.query_count, sequence.key_count);
  if (!place.is_inside) return;
  // Scores that no query of the tile sees are needed only where they are kept.
  if (args.scores == nullptr && place.column >= seen_keys_of_tile(pass, sequence, place.row, kProductTile)) return;
  StepsAdjacent<T> q{first_of_queries<T>(args.q, pass, sequence, head, width), args.num_heads * width};
  StepsAdjacent<T> k{first_of_keys<T>(pass, sequence, head), sequence.key_token_stride};
  float sums[4][4] = {};
  add_product(sums, tiles, place, q, k, width);
  for_own_results(place, sums, [&](int query, int key, float sum) {
    pass.weights[pass.pair_row(sequence, head, query) + key] = finish_score<T>(pass, sequence, head, query, key, sum);
  });
}

/// A block for each query and head: scores become weights in place, those of unseen keys 0.
__global__ void __launch_bounds__(kRowThreads) normalize_scores(const __grid_constant__ RelativePass pass) {
  __shared__ float parts[33];
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int query = static_cast<int>(blockIdx.x), head = pass.head_begin + static_cast<int>(blockIdx.y);
  if (query >= sequence.query_count) return;
  float* row = pass.weights + pass.pair_row(sequence, head, query);
  int seen = seen_keys(pass, sequence, query), first = static_cast<int>(threadIdx.x);
  ScoreNormalization normalization = pass.args.forward.normalization;
  if (normalization == ScoreNormalization::squared_relu) {
    for (int key = first; key < seen; key += kRowThreads) {
      float positive = row[key] < 0 ? 0.0f : row[key];
      row[key] = positive * positive / static_cast<float>(seen);
    }
  } else {
    float sharpness = sharpness_of(normalization, seen), largest = -INFINITY, sum = 0;
    for (int key = first; key < seen; key += kRowThreads) largest = fmaxf(largest, row[key] * sharpness);
    largest = block_max(largest, parts);
    for (int key = first; key < seen; key += kRowThreads) {
      float weight = expf(row[key] * sharpness - largest);
      sum += weight;
      row[key] = weight;
    }
    float inverse = 1.0f / block_sum(sum, parts);
    for (int key = first; key < seen; key += kRowThreads) row[key] *= inverse;
  }
  for (int key = seen + first; key < sequence.key_count; key += kRowThreads) row[key] = 0;
}

/// A block for each query and head; a thread takes the keys of a Philox block.
__global__ void __launch_bounds__(kRowThreads) drop_pairs(const __grid_constant__ RelativePass pass, float* pairs) {
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int query = static_cast<int>(blockIdx.x), head = pass.head_begin + static_cast<int>(blockIdx.y);
  if (query >= sequence.query_count) return;
  const AttentionDropout& dropout = pass.args.forward.dropout;
  uint64_t first = dropout.first_index(sequence.query_begin + query, head);
  float* row = pairs + pass.pair_row(sequence, head, query);
  float scale = dropout.kept_scale();
  for (int key = static_cast<int>(threadIdx.x) * kDrawnKeys; key < sequence.key_count;
       key += kRowThreads * kDrawnKeys) {
    uint32_t kept = draw_kept<1>(dropout, [&](int) { return first + static_cast<uint64_t>(key); });
#pragma unroll
    for (int k = 0; k < kDrawnKeys; ++k) {
      if (key + k < sequence.key_count) row[key + k] = is_kept(kept, k) ? row[key + k] * scale : 0.0f;
    }
  }
}

}  // namespace

void for_each_pass(const RelativeAttentionBackwardArgs& args,
                   const RelativeScratch& scratch,
                   CudaDevice& device,
                   const std::function<void(const RelativePass&)>& body) {
  const RelativeAttentionArgs& forward = args.forward;
  std::vector<int32_t> arrays = all_host_arrays(forward);
  DeviceBuffer<int32_t> copies =
      arrays.empty() ? DeviceBuffer<int32_t>() : uploaded(device, arrays.data(), static_cast<int64_t>(arrays.size()));
  std::vector<RelativeSpan> spans = spans_of(forward, copies.data());
  int64_t table_rows = forward.rows != nullptr ? forward.table_rows : 0;
  for (size_t next = 0; next < spans.size();) {
    RelativePass pass = {};
    PassSize size;
    pass.args = args;
    pass.args.forward.sequences = {};
    pass.args.forward.rows = forward.rows != nullptr ? copies.data() : nullptr;
    while (next < spans.size() && append(pass, size, spans[next], table_rows)) ++next;
    run_heads(pass, size, scratch, device, body);
  }
}

void launch_table_products(const RelativePass& pass, TableSide side, const CudaDevice& device) {
  int64_t lines = side == TableSide::key ? pass.most_keys : pass.most_queries;
  dim3 grid = product_grid(pass, lines, pass.args.forward.table_rows, pass.head_count);
  if (grid.x == 0) return;
  dispatch(pass.args.forward.dtype, "relative_attention", [&](auto zero) {
    multiply_table<decltype(zero)><<<grid, kProductThreads, 0, device.stream()>>>(pass, side);
  });
  check_launch("relative_attention tables");
}

void launch_sums_by_row(const RelativePass& pass, const float* pairs, bool by_key, const CudaDevice& device) {
  int64_t lines = by_key ? pass.most_keys : pass.most_queries;
  if (lines == 0) return;
  dim3 grid = {static_cast<unsigned>(ceil_div(lines, kSumWarps)),
               static_cast<unsigned>(pass.head_count),
               static_cast<unsigned>(pass.num_sequences)};
  auto kernel = by_key ? sum_by_row<true> : sum_by_row<false>;
  kernel<<<grid, 32 * kSumWarps, 0, device.stream()>>>(pass, pairs);
  check_launch("relative_attention sums by row");
}

void launch_weights(const RelativePass& pass, const CudaDevice& device) {
  const RelativeAttentionArgs& args = pass.args.forward;
  if (pass.most_keys == 0) return;
  if (pass.has(args.query_table)) launch_table_products(pass, TableSide::query, device);
  if (pass.has(args.key_table)) launch_table_products(pass, TableSide::key, device);
  dim3 grid = product_grid(pass, pass.most_queries, pass.most_keys, pass.head_count);
  dispatch(args.dtype, "relative_attention", [&](auto zero) {
    multiply_keys<decltype(zero)><<<grid, kProductThreads, 0, device.stream()>>>(pass);
  });
  check_launch("relative_attention scores");
  normalize_scores<<<query_grid(pass), kRowThreads, 0, device.stream()>>>(pass);
  check_launch("relative_attention weights");
}

void launch_dropout(const RelativePass& pass, float* pairs, const CudaDevice& device) {
  if (!pass.args.forward.dropout.drops() || pass.most_keys == 0) return;
  drop_pairs<<<query_grid(pass), kRowThreads, 0, device.stream()>>>(pass, pairs);
  check_launch("relative_attention dropout");
}

}  // namespace weft::cuda
