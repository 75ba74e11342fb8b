#include "kernels/cuda/relative_attention.cuh"

#include "kernels/cuda/cuda_kernels.h"

namespace weft::cuda {
namespace {

/// Most queries a sequence for which mix_few_queries is faster: it spreads the keys over threads.
constexpr int kFewQueries = 4;
constexpr int kMixWarps = 16;

template <typename T>
__device__ __forceinline__ T* first_result(const RelativePass& pass, const RelativeSpan& sequence, int head) {
  const RelativeAttentionArgs& args = pass.args.forward;
  return static_cast<T*>(args.out) + (sequence.query_begin * args.num_heads + head) * args.value_dim;
}

/// out = weights·v + sums by row·value table.
template <typename T>
__global__ void __launch_bounds__(kProductThreads) mix_values(const __grid_constant__ RelativePass pass) {
  __shared__ ProductTiles tiles;
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int head = pass.head_begin + static_cast<int>(blockIdx.y), table_rows = static_cast<int>(args.table_rows);
  ProductPlace place = place_of_tile(sequence.query_count, static_cast<int>(args.value_dim));
  if (!place.is_inside) return;
  float sums[4][4] = {};
  StepsAdjacent<float> weights{pass.weights + pass.pair_row(sequence, head, 0), sequence.key_count};
  RowsAdjacent<T> values{first_of_values<T>(pass, sequence, head), sequence.value_token_stride};
  add_product(sums, tiles, place, weights, values, seen_keys_of_tile(pass, sequence, place.row, kProductTile));
  if (pass.has(args.value_table)) {
    StepsAdjacent<float> by_row{pass.by_query_row(sequence, head, 0), table_rows};
    RowsAdjacent<T> table{first_of_table<T>(args.value_table, head), args.value_table.row_stride};
    add_product(sums, tiles, place, by_row, table, table_rows);
  }
  T* out = first_result<T>(pass, sequence, head);
  for_own_results(place, sums, [&](int query, int i, float sum) {
    out[static_cast<int64_t>(query) * args.num_heads * args.value_dim + i] = from_float<T>(sum);
  });
}

/// A block for each query and head: warps take keys, lanes take dims. Weights times (value + its row of the table).
template <typename T>
__global__ void __launch_bounds__(32 * kMixWarps) mix_few_queries(const __grid_constant__ RelativePass pass) {
  __shared__ float parts[kMixWarps][33];
  const RelativeAttentionArgs& args = pass.args.forward;
  const RelativeSpan& sequence = pass.sequences[blockIdx.z];
  int query = static_cast<int>(blockIdx.x), head = pass.head_begin + static_cast<int>(blockIdx.y);
  if (query >= sequence.query_count) return;
  int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  int width = static_cast<int>(args.value_dim), seen = seen_keys(pass, sequence, query);
  bool has_table = pass.has(args.value_table);
  const float* weights = pass.weights + pass.pair_row(sequence, head, query);
  const T* values = first_of_values<T>(pass, sequence, head);
  const T* table = has_table ? first_of_table<T>(args.value_table, head) : nullptr;
  T* out = first_result<T>(pass, sequence, head) + static_cast<int64_t>(query) * args.num_heads * width;
  for (int first = 0; first < width; first += 32) {
    int i = first + lane;
    float sum = 0;
#pragma unroll 4
    for (int key = warp; key < seen; key += kMixWarps) {
      if (i >= width) continue;
      float value = to_float(values[key * sequence.value_token_stride + i]);
      if (has_table) value += to_float(table[table_row(pass, sequence, query, key) * args.value_table.row_stride + i]);
      sum += weights[key] * value;
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && i < width) {
      float total = 0;
      for (int w = 0; w < kMixWarps; ++w) total += parts[w][lane];
      out[i] = from_float<T>(total);
    }
    __syncthreads();
  }
}

template <typename T>
void launch_mix(const RelativePass& pass, const CudaDevice& device) {
  const RelativeAttentionArgs& args = pass.args.forward;
  if (pass.most_queries <= kFewQueries) {
    mix_few_queries<T><<<query_grid(pass), dim3(32, kMixWarps), 0, device.stream()>>>(pass);
  } else {
    if (pass.has(args.value_table)) launch_sums_by_row(pass, pass.weights, false, device);
    dim3 grid = product_grid(pass, pass.most_queries, args.value_dim, pass.head_count);
    mix_values<T><<<grid, kProductThreads, 0, device.stream()>>>(pass);
  }
  check_launch("relative_attention");
}

void forward(const RelativeAttentionArgs& args, const Stream& stream) {
  CudaDevice& device = device_of(stream);
  bool has_tables = args.rows != nullptr;
  RelativeScratch scratch{
      .by_query = has_tables && (args.query_table.values != nullptr || args.value_table.values != nullptr),
      .by_key = has_tables && args.key_table.values != nullptr};
  RelativeAttentionBackwardArgs call = {};
  call.forward = args;
  dispatch(args.dtype, "relative_attention", [&](auto zero) {
    for_each_pass(call, scratch, device, [&](const RelativePass& pass) {
      launch_weights(pass, device);
      launch_dropout(pass, pass.weights, device);
      if (args.value_dim > 0) launch_mix<decltype(zero)>(pass, device);
    });
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

RelativeAttentionKernels cuda_relative_attention_kernels() {
  return {.forward = cuda::forward, .backward = cuda::relative_attention_backward};
}

}  // namespace weft
