// Attention over many queries in bf16 (Dao, "FlashAttention-2", 2023): a block has a tile of queries of one head and
// passes over the keys that they see, whose next tiles are on their way to shared memory meanwhile. Products on tensor
// cores with f32 sums; the softmax runs along in f32; weights are rounded to bf16 for the product with the values.
#pragma once

#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cuda/attention_dropout.cuh"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/common.cuh"

namespace weft::cuda {
namespace {

/// A kernel's sizes, and what it can do. A warp has kRowTiles tiles of 16 queries: two share each load of keys and
/// values.
template <int head_width, int row_tiles, int keys, bool curved, bool drops = false>
struct Shape {
  static constexpr int kWidth = head_width;  // head_dim is padded to it with zeros
  static constexpr int kRowTiles = row_tiles;
  static constexpr int kKeys = keys;
  static constexpr bool kIsCurved = curved;
  static constexpr bool kDrops = drops;
  using Params = std::conditional_t<kDrops, DroppingForwardParams, ForwardParams>;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kChunks = kWidth / 8;  // pieces of 16 bytes in a row
  // Shared memory: queries, two buffers of a tile of keys and one of values each, the rows' visible keys.
  static constexpr int kQueryBytes = kRows * kWidth * 2;
  static constexpr int kTileBytes = kKeys * kWidth * 2;
  static constexpr int kBoundsAt = kQueryBytes + 4 * kTileBytes;
  static constexpr int kSharedBytes = kBoundsAt + kRows * static_cast<int>(sizeof(int2));
};

template <typename S>
using Scores = float[S::kRowTiles][S::kKeys / 8][4];
template <typename S>
using Output = float[S::kRowTiles][S::kWidth / 8][4];

/// What a lane knows of its rows: row 8·r + lane / 4 of each tile of 16.
template <typename S>
struct RowState {
  float maximum[S::kRowTiles][2];  // of the products, or of the scores where they are curved
  float sum[S::kRowTiles][2];      // this lane's part
};

/// Starts copying `count` rows of head_dim elements into a swizzled tile; what does not exist there becomes zero.
template <typename S, int rows>
__device__ __forceinline__ void load_rows(
    uint32_t to, const bf16* from, int64_t stride, int count, const ForwardParams& params) {
  static_assert(rows * S::kChunks % S::kThreads == 0);
  if (params.is_wide) {
#pragma unroll
    for (int i = 0; i < rows * S::kChunks; i += S::kThreads) {
      int row = (i + static_cast<int>(threadIdx.x)) / S::kChunks;
      int chunk = (i + static_cast<int>(threadIdx.x)) % S::kChunks;
      bool is_valid = row < count && chunk * 8 < params.head_dim;
      copy_async(to + swizzled<S::kChunks>(row, chunk), is_valid ? from + row * stride + chunk * 8 : from, is_valid);
    }
    return;
  }
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * S::kWidth; i += S::kThreads) {
    int row = i / S::kWidth, column = i % S::kWidth;
    uint16_t bits = 0;
    if (row < count && column < params.head_dim) bits = __bfloat16_as_ushort(from[row * stride + column]);
    store_shared(to + swizzled<S::kChunks>(row, column / 8) + column % 8 * 2, bits);
  }
}

/// Keys and values [key, key + kKeys), none behind `end`, into a buffer.
template <typename S>
__device__ __forceinline__ void load_keys(
    uint32_t to, const Tile& tile, const ForwardParams& params, int key, int end) {
  int64_t stride = tile.sequence.key_token_stride;
  int64_t at = tile.head / params.group * tile.sequence.key_head_stride + key * stride;
  load_rows<S, S::kKeys>(to, static_cast<const bf16*>(tile.sequence.keys) + at, stride, end - key, params);
  load_rows<S, S::kKeys>(
      to + S::kTileBytes, static_cast<const bf16*>(tile.sequence.values) + at, stride, end - key, params);
}

/// Products of the warp's queries with a tile of keys.
template <typename S>
__device__ __forceinline__ void multiply_keys(Scores<S>& scores, uint32_t queries, uint32_t keys) {
  uint32_t lane = threadIdx.x % 32;
  uint32_t query_start = queries + swizzled<S::kChunks>(lane % 16, lane / 16);
  uint32_t key_start = keys + swizzled<S::kChunks>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[t][n][i] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < S::kWidth / 16; ++step) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
      load_matrices(a[t], swizzled_step<S::kChunks>(query_start, step) + t * 16 * S::kChunks * 16);
    }
#pragma unroll
    for (int n = 0; n < S::kKeys / 16; ++n) {
      uint32_t b[4];
      load_matrices(b, swizzled_step<S::kChunks>(key_start, step) + n * 16 * S::kChunks * 16);
#pragma unroll
      for (int t = 0; t < S::kRowTiles; ++t) {
        mma_bf16(scores[t][2 * n], a[t], b[0], b[1]);
        mma_bf16(scores[t][2 * n + 1], a[t], b[2], b[3]);
      }
    }
  }
}

/// Adds the weighted values of a tile.
template <typename S>
__device__ __forceinline__ void multiply_values(Output<S>& out, const Scores<S>& weights, uint32_t values) {
  uint32_t lane = threadIdx.x % 32;
  uint32_t value_start = values + swizzled<S::kChunks>(lane % 16, lane / 16);
#pragma unroll
  for (int step = 0; step < S::kKeys / 16; ++step) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = weights[t][2 * step + i / 2];
        a[t][i] = pack_bf16(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < S::kWidth / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, swizzled_step<S::kChunks>(value_start, n) + step * 16 * S::kChunks * 16);
#pragma unroll
      for (int t = 0; t < S::kRowTiles; ++t) {
        mma_bf16(out[t][2 * n], a[t], b[0], b[1]);
        mma_bf16(out[t][2 * n + 1], a[t], b[2], b[3]);
      }
    }
  }
}

/// A product as a score in units of log2, without its bias. tanh x = 1 − 2 / (1 + e^2x), whose error of 1e-7 is small
/// beside a cap's.
__device__ __forceinline__ float capped(float product, const ForwardParams& params) {
  if (params.cap == 0) return product * params.factor;
  float power = exp2_approximate(product * (params.cap_inner * (2 * kLog2E)));
  return fmaf(-2 * params.cap, __fdividef(1.0f, 1.0f + power), params.cap);
}

/// Products become scores by the curve and the biases. `key`: the tile's first one.
template <typename S>
__device__ __forceinline__ void curve(
    Scores<S>& scores, const Tile& tile, const ForwardParams& params, int first_row, int key) {
  int group = static_cast<int>(threadIdx.x) % 32 / 4, pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float* bias = bias_of_row(tile, params, first_row + t * 16 + r * 8 + group);
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& score = scores[t][n][2 * r + c];
          score = capped(score, params);
          if (bias != nullptr) score = fmaf(bias[key + n * 8 + pair * 2 + c], kLog2E, score);
        }
      }
    }
  }
}

/// What a row does not see gets a weight of zero.
template <typename S>
__device__ __forceinline__ void mask(Scores<S>& scores, const int2* warp_bounds, int key) {
  int group = static_cast<int>(threadIdx.x) % 32 / 4, pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int2 bounds = warp_bounds[t * 16 + r * 8 + group];
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          int column = key + n * 8 + pair * 2 + c;
          if (column < bounds.x || column >= bounds.y) scores[t][n][2 * r + c] = -INFINITY;
        }
      }
    }
  }
}

/// Scores become weights relative to each row's new maximum; what was summed before shrinks to it.
template <typename S>
__device__ __forceinline__ void soften(Scores<S>& scores, Output<S>& out, RowState<S>& state, float factor) {
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float old_maximum = state.maximum[t][r];
      float maximum = old_maximum;
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
        maximum = fmaxf(maximum, fmaxf(scores[t][n][2 * r], scores[t][n][2 * r + 1]));
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
      state.maximum[t][r] = maximum;
      // A row that has seen nothing yet: differences have to stay numbers.
      float shift = maximum == -INFINITY ? 0.0f : maximum * factor;
      float rescale = exp2_approximate(fmaf(old_maximum, factor, -shift));
      float sum = 0;
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& weight = scores[t][n][2 * r + c];
          weight = exp2_approximate(fmaf(weight, factor, -shift));
          sum += weight;
        }
      }
      state.sum[t][r] = fmaf(state.sum[t][r], rescale, sum);
#pragma unroll
      for (int n = 0; n < S::kWidth / 8; ++n) {
        out[t][n][2 * r] *= rescale;
        out[t][n][2 * r + 1] *= rescale;
      }
    }
  }
}

/// Which of the warp's weights of a tile of keys count: bits 4·n + i of each tile of rows.
template <typename S>
__device__ __forceinline__ void draw(
    uint32_t (&kept)[S::kRowTiles], const Tile& tile, const DroppingForwardParams& params, int first_row, int key) {
  int group = static_cast<int>(threadIdx.x) % 32 / 4, pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
    int query = tile.first_query + first_row + t * 16 + pair % 2 * 8 + group;
    uint64_t first = params.dropout.first_index(tile.sequence.query_begin + query, tile.head) +
                     static_cast<uint64_t>(key + first_drawn_key(pair * 2));
    kept[t] = kept_of_two_lanes<1>(
        draw_kept<S::kKeys / 8>(params.dropout, [&](int n) { return first + static_cast<uint64_t>(n * 8); }));
  }
}

template <typename S>
__device__ __forceinline__ void drop(Scores<S>& weights, const uint32_t (&kept)[S::kRowTiles]) {
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!is_kept(kept[t], 4 * n + i)) weights[t][n][i] = 0;
      }
    }
  }
}

/// Divides by the sums, and puts the warp's rows where its queries were.
template <typename S>
__device__ __forceinline__ void stage_output(uint32_t to,
                                             Output<S>& out,
                                             RowState<S>& state,
                                             const Tile& tile,
                                             const typename S::Params& params,
                                             int first_row) {
  int group = static_cast<int>(threadIdx.x) % 32 / 4, pair = static_cast<int>(threadIdx.x) % 4;
  float factor = S::kIsCurved ? 1.0f : params.factor;
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int row = t * 16 + r * 8 + group;
      float sum = state.sum[t][r];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      float inverse = inverse_of_sum(sum);
      if constexpr (S::kDrops) inverse *= params.dropout.kept_scale();
#pragma unroll
      for (int n = 0; n < S::kWidth / 8; ++n) {
        uint32_t bits = pack_bf16(out[t][n][2 * r] * inverse, out[t][n][2 * r + 1] * inverse);
        store_shared(to + swizzled<S::kChunks>(row, n) + pair * 4, bits);
      }
      bool is_there = tile.first_query + first_row + row < tile.sequence.query_count;
      if (params.log_sum_exp != nullptr && pair == 0 && is_there) {
        params.log_sum_exp[element_row(tile, params, first_row + row)] =
            log_sum_exp_of(state.maximum[t][r] * factor, sum);
      }
    }
  }
}

/// Writes the warp's staged rows.
template <typename S>
__device__ __forceinline__ void store_output(const unsigned char* from,
                                             const Tile& tile,
                                             const ForwardParams& params,
                                             int first_row) {
  int lane = static_cast<int>(threadIdx.x) % 32;
  int count = tile.sequence.query_count - tile.first_query - first_row;
#pragma unroll 4
  for (int i = lane; i < S::kWarpRows * S::kChunks; i += 32) {
    int row = i / S::kChunks, chunk = i % S::kChunks;
    if (row >= count || chunk * 8 >= params.head_dim) continue;
    const unsigned char* piece = from + swizzled<S::kChunks>(row, chunk);
    bf16* to =
        static_cast<bf16*>(params.out) + element_row(tile, params, first_row + row) * params.head_dim + chunk * 8;
    if (params.is_wide) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(piece);
    } else {
      for (int e = 0; e < min(8, params.head_dim - chunk * 8); ++e) to[e] = reinterpret_cast<const bf16*>(piece)[e];
    }
  }
}

/// The warp's queries against keys and values [key, key + kKeys) in a buffer.
template <typename S>
__device__ __forceinline__ void attend(Output<S>& out,
                                       RowState<S>& state,
                                       const Tile& tile,
                                       const typename S::Params& params,
                                       const int2* warp_bounds,
                                       uint32_t queries,
                                       uint32_t buffer,
                                       int first_row,
                                       int key) {
  uint32_t kept[S::kRowTiles];
  if constexpr (S::kDrops) draw<S>(kept, tile, params, first_row, key);
  Scores<S> scores;
  multiply_keys<S>(scores, queries, buffer);
  if constexpr (S::kIsCurved) curve<S>(scores, tile, params, first_row, key);
  bool sees_all = warp_bounds[S::kWarpRows - 1].x <= key && key + S::kKeys <= warp_bounds[0].y;
  if (!sees_all) mask<S>(scores, warp_bounds, key);
  soften<S>(scores, out, state, S::kIsCurved ? 1.0f : params.factor);
  if constexpr (S::kDrops) drop<S>(scores, kept);
  multiply_values<S>(out, scores, buffer + S::kTileBytes);
}

extern __shared__ __align__(128) unsigned char shared_bytes[];

template <typename S>
__global__ void __launch_bounds__(S::kThreads, 2)
    forward_kernel(const __grid_constant__ TileList list, const __grid_constant__ typename S::Params params) {
  Tile tile = find_tile(list, params.num_heads);
  int2* bounds = reinterpret_cast<int2*>(shared_bytes + S::kBoundsAt);
  uint32_t shared = shared_address(shared_bytes);
  uint32_t buffers = shared + S::kQueryBytes;
  fill_bounds(bounds, S::kRows, tile, params, list.visible_keys);
  const bf16* q = static_cast<const bf16*>(params.q) + element_row(tile, params, 0) * params.head_dim;
  load_rows<S, S::kRows>(shared,
                         q,
                         static_cast<int64_t>(params.num_heads) * params.head_dim,
                         tile.sequence.query_count - tile.first_query,
                         params);
  __syncthreads();
  int begin = bounds[0].x, end = bounds[S::kRows - 1].y;
  if constexpr (S::kDrops) begin = first_drawn_key(begin);
  if (begin < end) load_keys<S>(buffers, tile, params, begin, end);
  commit_copies();

  int first_row = static_cast<int>(threadIdx.x) / 32 * S::kWarpRows;
  const int2* warp_bounds = bounds + first_row;
  int warp_begin = warp_bounds[0].x, warp_end = warp_bounds[S::kWarpRows - 1].y;
  if (tile.first_query + first_row >= tile.sequence.query_count) warp_end = 0;
  uint32_t queries = shared + first_row * S::kChunks * 16;
  Output<S> out = {};
  RowState<S> state;
#pragma unroll
  for (int t = 0; t < S::kRowTiles; ++t) {
    state.maximum[t][0] = state.maximum[t][1] = -INFINITY;
    state.sum[t][0] = state.sum[t][1] = 0;
  }
  uint32_t buffer = 0;
  for (int key = begin; key < end; key += S::kKeys, buffer ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // this tile is there for all, and all are done with the one before
    if (key + S::kKeys < end) {
      load_keys<S>(buffers + (buffer ^ 1) * 2 * S::kTileBytes, tile, params, key + S::kKeys, end);
    }
    commit_copies();
    if (key >= warp_end || key + S::kKeys <= warp_begin) continue;
    attend<S>(out, state, tile, params, warp_bounds, queries, buffers + buffer * 2 * S::kTileBytes, first_row, key);
  }
  wait_for_copies<0>();
  if (begin >= end) __syncthreads();  // queries that nobody waited for lie where the output is going
  stage_output<S>(queries, out, state, tile, params, first_row);
  __syncwarp();
  store_output<S>(shared_bytes + first_row * S::kChunks * 16, tile, params, first_row);
}

template <typename S>
void launch(const AttentionForwardArgs& args, const typename S::Params& params, CudaDevice& device) {
  AttentionTiles tiles(args, S::kRows, device);
  int64_t blocks = tiles.count() * args.num_heads;
  if (blocks == 0) return;
  require(blocks < (int64_t{1} << 31), "attention", "fewer than 2^31 tiles of queries and heads");
  require(S::kSharedBytes <= device.max_shared_bytes(), "attention", "more shared memory for heads of this size");
  check(cudaFuncSetAttribute(forward_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes),
        "attention's shared memory");
  forward_kernel<S>
      <<<static_cast<unsigned>(blocks), S::kThreads, S::kSharedBytes, device.stream()>>>(tiles.list(), params);
  check_launch("attention");
}

}  // namespace
}  // namespace weft::cuda
