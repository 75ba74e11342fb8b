// Attention over many queries in f32 without tensor cores: the tiling of attention_forward.cu with products in
// registers, four rows by four columns a thread.
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cuda/attention_dropout.cuh"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/common.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 64;     // queries of a tile
constexpr int kKeys = 64;     // keys of a tile
constexpr int kColumns = 16;  // threads that share four rows
constexpr int kWeightStride = kKeys + 4;

/// Sizes for heads up to `head_width`. Rows in shared memory end with four numbers that keep neighbours in different
/// banks.
template <int head_width, bool drops>
struct Shape {
  static constexpr int kWidth = head_width;
  static constexpr bool kDrops = drops;
  using Params = std::conditional_t<kDrops, DroppingForwardParams, ForwardParams>;
  static constexpr int kStride = kWidth + 4;
  static constexpr int kQuads = kWidth / (4 * kColumns);  // of output columns a thread
  static constexpr int kKeysAt = kRows * kStride;
  static constexpr int kWeightsAt = kKeysAt + kKeys * kStride;
  static constexpr int kBoundsAt = kWeightsAt + kRows * kWeightStride;
  static constexpr int kSharedBytes = (kBoundsAt + 2 * kRows) * static_cast<int>(sizeof(float));
};

/// What a thread knows of its four rows. Maxima of scores in units of log2; sums are the thread's part.
template <typename S>
struct RowState {
  float maximum[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  float sum[4] = {};
  float out[4][S::kQuads][4] = {};
};

/// Starts copying `count` rows of head_dim elements into shared memory; what does not exist there becomes zero.
template <typename S, int rows>
__device__ __forceinline__ void load_rows(
    float* to, const float* from, int64_t stride, int count, const ForwardParams& params) {
  if (params.is_wide) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < rows * S::kWidth / 4; i += kThreads) {
      int row = i / (S::kWidth / 4), column = i % (S::kWidth / 4) * 4;
      bool is_valid = row < count && column < params.head_dim;
      copy_async(
          shared_address(to + row * S::kStride + column), is_valid ? from + row * stride + column : from, is_valid);
    }
    return;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * S::kWidth; i += kThreads) {
    int row = i / S::kWidth, column = i % S::kWidth;
    bool is_valid = row < count && column < params.head_dim;
    to[row * S::kStride + column] = is_valid ? from[row * stride + column] : 0.0f;
  }
}

/// A thread's products: rows first_row + i with keys column + 16·j, each summed over the head's elements in order.
template <typename S>
__device__ __forceinline__ void multiply_keys(float (&scores)[4][4],
                                              const float* queries,
                                              const float* keys,
                                              int dims) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[i][j] = 0;
  }
#pragma unroll 2
  for (int d = 0; d < dims; d += 4) {
    float4 q[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) q[i] = *reinterpret_cast<const float4*>(queries + i * S::kStride + d);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float4 k = *reinterpret_cast<const float4*>(keys + j * kColumns * S::kStride + d);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum = fmaf(q[i].x, k.x, scores[i][j]);
        sum = fmaf(q[i].y, k.y, sum);
        sum = fmaf(q[i].z, k.z, sum);
        scores[i][j] = fmaf(q[i].w, k.w, sum);
      }
    }
  }
}

/// Products become scores; what a row does not see becomes −infinity.
__device__ __forceinline__ void score(float (&scores)[4][4],
                                      const Tile& tile,
                                      const ForwardParams& params,
                                      const int2* bounds,
                                      int first_row,
                                      int first_key) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int2 visible = bounds[first_row + i];
    const float* bias = bias_of_row(tile, params, first_row + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int key = first_key + j * kColumns;
      bool is_visible = visible.x <= key && key < visible.y;
      float value =
          params.cap == 0 ? scores[i][j] * params.factor : params.cap * tanhf(scores[i][j] * params.cap_inner);
      if (bias != nullptr && is_visible) value = fmaf(bias[key], kLog2E, value);
      scores[i][j] = is_visible ? value : -INFINITY;
    }
  }
}

/// Which of a thread's weights count: bit 4·j + i is that of row first_row + i and key first_key + 16·j.
__device__ __forceinline__ uint32_t draw(const Tile& tile,
                                         const DroppingForwardParams& params,
                                         int first_row,
                                         int first_key) {
  int query = tile.first_query + first_row + static_cast<int>(threadIdx.x) % 4;
  uint64_t first = params.dropout.first_index(tile.sequence.query_begin + query, tile.head) +
                   static_cast<uint64_t>(first_drawn_key(first_key));
  return kept_of_four_lanes<1>(
      draw_kept<4>(params.dropout, [&](int j) { return first + static_cast<uint64_t>(j * kColumns); }));
}

/// Scores become weights in shared memory, those that count; what was summed before shrinks to each row's new maximum.
template <typename S>
__device__ __forceinline__ void soften(const float (&scores)[4][4], RowState<S>& state, float* weights, uint32_t kept) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float maximum = fmaxf(fmaxf(scores[i][0], scores[i][1]), fmaxf(scores[i][2], scores[i][3]));
#pragma unroll
    for (int distance = kColumns / 2; distance > 0; distance /= 2)
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, distance));
    maximum = fmaxf(maximum, state.maximum[i]);
    float shift = maximum == -INFINITY ? 0.0f : maximum;
    float rescale = exp2f(state.maximum[i] - shift);
    state.maximum[i] = maximum;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float weight = exp2f(scores[i][j] - shift);
      sum += weight;
      if (S::kDrops && !is_kept(kept, 4 * j + i)) weight = 0;
      weights[i * kWeightStride + j * kColumns] = weight;
    }
    state.sum[i] = fmaf(state.sum[i], rescale, sum);
#pragma unroll
    for (int c = 0; c < S::kQuads; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) state.out[i][c][e] *= rescale;
    }
  }
}

/// Adds the weighted values. A thread has columns 4·column + 64·c and the three behind each.
template <typename S>
__device__ __forceinline__ void multiply_values(RowState<S>& state, const float* weights, const float* values) {
#pragma unroll 2
  for (int key = 0; key < kKeys; key += 4) {
    Pack<float, 4> weight[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) weight[i] = *reinterpret_cast<const Pack<float, 4>*>(weights + i * kWeightStride + key);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int c = 0; c < S::kQuads; ++c) {
        auto value = *reinterpret_cast<const Pack<float, 4>*>(values + (key + k) * S::kStride + c * 4 * kColumns);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            state.out[i][c][e] = fmaf(weight[i].values[k], value.values[e], state.out[i][c][e]);
        }
      }
    }
  }
}

template <typename S>
__device__ __forceinline__ void store_rows(
    const RowState<S>& state, const Tile& tile, const typename S::Params& params, int first_row, int column) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float sum = state.sum[i];
#pragma unroll
    for (int distance = kColumns / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (tile.first_query + first_row + i >= tile.sequence.query_count) continue;
    int64_t row = element_row(tile, params, first_row + i);
    if (params.log_sum_exp != nullptr && column == 0) params.log_sum_exp[row] = log_sum_exp_of(state.maximum[i], sum);
    float inverse = inverse_of_sum(sum);
    if constexpr (S::kDrops) inverse *= params.dropout.kept_scale();
    float* to = static_cast<float*>(params.out) + row * params.head_dim;
#pragma unroll
    for (int c = 0; c < S::kQuads; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int d = c * 4 * kColumns + column * 4 + e;
        if (d < params.head_dim) to[d] = state.out[i][c][e] * inverse;
      }
    }
  }
}

extern __shared__ __align__(128) float shared_floats[];

template <typename S>
__global__ void __launch_bounds__(kThreads, S::kWidth <= 128 ? 2 : 1)
    forward_f32_kernel(const __grid_constant__ TileList list, const __grid_constant__ typename S::Params params) {
  Tile tile = find_tile(list, params.num_heads);
  float* keys = shared_floats + S::kKeysAt;  // and values in turn
  int2* bounds = reinterpret_cast<int2*>(shared_floats + S::kBoundsAt);
  int column = static_cast<int>(threadIdx.x) % kColumns;
  int first_row = static_cast<int>(threadIdx.x) / kColumns * 4;
  float* weights = shared_floats + S::kWeightsAt + first_row * kWeightStride;
  fill_bounds(bounds, kRows, tile, params, list.visible_keys);
  load_rows<S, kRows>(shared_floats,
                      static_cast<const float*>(params.q) + element_row(tile, params, 0) * params.head_dim,
                      static_cast<int64_t>(params.num_heads) * params.head_dim,
                      tile.sequence.query_count - tile.first_query,
                      params);
  commit_copies();
  __syncthreads();
  int begin = bounds[0].x, end = bounds[kRows - 1].y;
  if constexpr (S::kDrops) begin = first_drawn_key(begin);
  int dims = (params.head_dim + 3) / 4 * 4;
  int64_t stride = tile.sequence.key_token_stride;
  int64_t of_head = tile.head / params.group * tile.sequence.key_head_stride;
  RowState<S> state;
  for (int key = begin; key < end; key += kKeys) {
    int64_t at = of_head + key * stride;
    __syncthreads();  // all are done with the values before
    load_rows<S, kKeys>(keys, static_cast<const float*>(tile.sequence.keys) + at, stride, end - key, params);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    float scores[4][4];
    multiply_keys<S>(scores, shared_floats + first_row * S::kStride, keys + column * S::kStride, dims);
    __syncthreads();  // all are done with the keys
    load_rows<S, kKeys>(keys, static_cast<const float*>(tile.sequence.values) + at, stride, end - key, params);
    commit_copies();
    score(scores, tile, params, bounds, first_row, key + column);
    uint32_t kept = 0;
    if constexpr (S::kDrops) kept = draw(tile, params, first_row, key + column);
    soften<S>(scores, state, weights + column, kept);
    wait_for_copies<0>();
    __syncthreads();
    multiply_values<S>(state, weights, keys + column * 4);
  }
  wait_for_copies<0>();
  store_rows<S>(state, tile, params, first_row, column);
}

template <typename S>
void launch(const AttentionForwardArgs& args, const typename S::Params& params, CudaDevice& device) {
  AttentionTiles tiles(args, kRows, device);
  int64_t blocks = tiles.count() * args.num_heads;
  if (blocks == 0) return;
  require(blocks < (int64_t{1} << 31), "attention", "fewer than 2^31 tiles of queries and heads");
  require(S::kSharedBytes <= device.max_shared_bytes(), "attention", "more shared memory for heads of this size");
  check(cudaFuncSetAttribute(forward_f32_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes),
        "attention's shared memory");
  forward_f32_kernel<S>
      <<<static_cast<unsigned>(blocks), kThreads, S::kSharedBytes, device.stream()>>>(tiles.list(), params);
  check_launch("attention");
}

template <bool drops>
void launch_by_width(const AttentionForwardArgs& args,
                     const typename Shape<64, drops>::Params& params,
                     CudaDevice& device) {
  if (args.head_dim <= 64) return launch<Shape<64, drops>>(args, params, device);
  if (args.head_dim <= 128) return launch<Shape<128, drops>>(args, params, device);
  launch<Shape<256, drops>>(args, params, device);
}

}  // namespace

void attention_forward_f32(const AttentionForwardArgs& args, CudaDevice& device) {
  if (args.dropout.drops()) return launch_by_width<true>(args, DroppingForwardParams(args), device);
  launch_by_width<false>(args, forward_params(args), device);
}

}  // namespace weft::cuda
