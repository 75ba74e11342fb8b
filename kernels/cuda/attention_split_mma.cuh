// Decoding in bf16 on tensor cores, without shared memory in the loop over keys: operands come from global memory in
// 16-byte loads straight into fragments (their layout: attention_mma.cuh). Which dim stands at which index of a
// product is free where it is summed over, and where it is not the result is read accordingly:
//   q · k^T    step 2c + h of 16 dims: lane's indices 2·pair, +1, +8, +9 are dims 32c + 8·pair + 4h + 0, 1, 2, 3
//   p · v      tile t of 8 dims of the block of 64 from 64e on: column n is dim 64e + 8n + t
// so that a lane reads eight neighbouring dims of a key (32c + 8·pair) and of a value (64e + 8·group).
#pragma once

#include "kernels/cuda/attention_split.cuh"

namespace weft::cuda {

inline constexpr int kMmaRows = 16;
inline constexpr int kMmaKeys = 16;  // of a warp's tile

/// Eight bf16 that are read once. No load of constants, as the kernel before this one may have written them; the
/// pointer comes from pointer_after_wait().
__device__ __forceinline__ uint4 load_streaming(const bf16* from) {
  uint4 value;
  asm("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(from));
  return value;
}

/// One warp's queries and what it has summed.
template <int width>
struct MmaRows {
  // Wide heads keep their queries in shared memory: the sums take the registers.
  static constexpr bool kHoldsQueries = width <= 128;
  static constexpr int kPieces = width / 32;

  uint4 queries[kHoldsQueries ? 2 : 1][kHoldsQueries ? kPieces : 1];  // rows group and group + 8
  const uint4* shared_queries;                                        // [2][kPieces][32]
  float out[width / 64][8][4];
  float maximum[2], sum[2];
  SplitRange range[2];
  const float* bias[2];
  bool has_upper;  // rows 8 to 15

  __device__ __forceinline__ uint4 query(int half, int piece) const {
    if constexpr (kHoldsQueries) {
      return queries[half][piece];
    } else {
      return shared_queries[(half * kPieces + piece) * 32 + threadIdx.x % 32];
    }
  }
};

/// This lane's piece of a row of queries, null: none; zeros where there is no row or dim.
__device__ __forceinline__ uint4 load_query(const bf16* row, int head_dim, int piece) {
  int d = piece * 32 + static_cast<int>(threadIdx.x) % 4 * 8;
  if (row == nullptr || d >= head_dim) return make_uint4(0, 0, 0, 0);
  return *reinterpret_cast<const uint4*>(row + d);
}

/// `shared` takes the queries of wide heads and is not used otherwise.
template <int width>
__device__ __forceinline__ void start_rows(const SplitParams& p,
                                           const SplitPlace& place,
                                           uint4* shared,
                                           MmaRows<width>& rows) {
  using Rows = MmaRows<width>;
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  rows.has_upper = place.rows > 8;
  rows.shared_queries = shared;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int row = lane / 4 + half * 8;
    rows.maximum[half] = kMaskedScore;
    rows.sum[half] = 0;
    rows.range[half] = row_range(p, place, row);
    rows.bias[half] = p.bias != nullptr && row < place.rows ? bias_row(p, place, row) : nullptr;
    const bf16* query = nullptr;
    if (row < place.rows) query = static_cast<const bf16*>(p.q) + row_in_batch(p, place, row) * p.head_dim;
#pragma unroll
    for (int piece = 0; piece < Rows::kPieces; ++piece) {
      if constexpr (Rows::kHoldsQueries) {
        rows.queries[half][piece] = load_query(query, p.head_dim, piece);
      } else if (warp == 0) {
        shared[(half * Rows::kPieces + piece) * 32 + lane] = load_query(query, p.head_dim, piece);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < width / 64; ++e) {
#pragma unroll
    for (int t = 0; t < 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.out[e][t][i] = 0;
    }
  }
  if constexpr (!Rows::kHoldsQueries) __syncthreads();
}

/// products += q · k^T of 16 keys: products[j] is the C fragment of keys 8j to 8j + 7.
template <int width>
__device__ __forceinline__ void multiply_keys(const MmaRows<width>& rows,
                                              const uint4 (&keys)[2][width / 32],
                                              float (&products)[2][4]) {
#pragma unroll
  for (int piece = 0; piece < width / 32; ++piece) {
    uint4 low = rows.query(0, piece), high = rows.query(1, piece);
    uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
    for (int j = 0; j < 2; ++j) mma_bf16(products[j], first, keys[j][piece].x, keys[j][piece].y);
#pragma unroll
    for (int j = 0; j < 2; ++j) mma_bf16(products[j], second, keys[j][piece].z, keys[j][piece].w);
  }
}

/// Products become weights; what was summed before shrinks to the new maximum.
template <int width>
__device__ __forceinline__ void soften_tile(const SplitParams& p,
                                            int first_key,
                                            MmaRows<width>& rows,
                                            float (&scores)[2][4]) {
  float shrink[2] = {1, 1};
  int pair_key = first_key + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (half == 1 && !rows.has_upper) break;
    float maximum = rows.maximum[half];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int key = pair_key + i / 2 * 8 + i % 2;
      float& score = scores[i / 2][half * 2 + i % 2];
      bool is_visible = key >= rows.range[half].begin && key < rows.range[half].end;
      score = split_score(p, score);
      if (p.bias != nullptr && is_visible) score += kSplitLog2E * rows.bias[half][key];
      if (!is_visible) score = kMaskedScore;
      maximum = fmaxf(maximum, score);
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
    shrink[half] = exp2_approximate(rows.maximum[half] - maximum);
    rows.maximum[half] = maximum;
    rows.sum[half] *= shrink[half];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int key = pair_key + i / 2 * 8 + i % 2;
      float& score = scores[i / 2][half * 2 + i % 2];
      bool is_visible = key >= rows.range[half].begin && key < rows.range[half].end;
      score = is_visible ? exp2_approximate(score - maximum) : 0.0f;
      rows.sum[half] += score;
    }
  }
  if (!__any_sync(0xffffffffu, shrink[0] != 1 || shrink[1] != 1)) return;
#pragma unroll
  for (int e = 0; e < width / 64; ++e) {
#pragma unroll
    for (int t = 0; t < 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.out[e][t][i] *= shrink[i / 2];
    }
  }
}

/// out += p · v of 64 dims; values[i] are the lane's dims of keys 2·pair, +1, +8, +9.
__device__ __forceinline__ void add_values(const uint32_t (&weights)[4], const uint4 (&values)[4], float (&out)[8][4]) {
#pragma unroll
  for (int t = 0; t < 8; ++t) {
    uint32_t b[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4 &even = values[i * 2], &odd = values[i * 2 + 1];
      uint32_t x = t < 2 ? even.x : t < 4 ? even.y : t < 6 ? even.z : even.w;
      uint32_t y = t < 2 ? odd.x : t < 4 ? odd.y : t < 6 ? odd.z : odd.w;
      b[i] = __byte_perm(x, y, t % 2 == 0 ? 0x5410 : 0x7632);
    }
    mma_bf16(out[t], weights, b[0], b[1]);
  }
}

/// Where a lane reads; keys and dims that do not exist are replaced by some that do, and count for nothing.
template <int width>
struct MmaSource {
  const bf16 *keys, *values;
  int64_t stride;
  int last_key;
  int head_dim;

  __device__ __forceinline__ int64_t at(int key) const { return min(key, last_key) * stride; }
  __device__ __forceinline__ void load_keys(int first_key, uint4 (&to)[2][width / 32]) const {
    int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const bf16* row = keys + at(first_key + j * 8 + lane / 4);
#pragma unroll
      for (int piece = 0; piece < width / 32; ++piece) {
        int d = piece * 32 + lane % 4 * 8;
        to[j][piece] = load_streaming(row + (d < head_dim ? d : 0));
      }
    }
  }
  __device__ __forceinline__ void load_values(int first_key, int block, uint4 (&to)[4]) const {
    int lane = static_cast<int>(threadIdx.x) % 32;
    int d = block * 64 + lane / 4 * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int key = first_key + lane % 4 * 2 + i % 2 + i / 2 * 8;
      to[i] = load_streaming(values + at(key) + (d < head_dim ? d : 0));
    }
  }
};

template <int width>
__device__ __forceinline__ void add_tile(const SplitParams& p,
                                         const MmaSource<width>& source,
                                         int first_key,
                                         MmaRows<width>& rows) {
  constexpr int kBlocks = width / 64;
  uint4 keys[2][width / 32];
  source.load_keys(first_key, keys);
  // On their way while the products with the keys are formed, where the registers allow it.
  constexpr int kEarly = kBlocks <= 2 ? kBlocks : 1;
  uint4 values[kEarly][4];
#pragma unroll
  for (int e = 0; e < kEarly; ++e) source.load_values(first_key, e, values[e]);
  float scores[2][4] = {};
  multiply_keys<width>(rows, keys, scores);
  soften_tile<width>(p, first_key, rows, scores);
  uint32_t weights[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* pair = &scores[i / 2][i % 2 * 2];
    weights[i] = i % 2 == 0 || rows.has_upper ? pack_bf16(pair[0], pair[1]) : 0;
  }
#pragma unroll
  for (int e = 0; e < kBlocks; ++e) {
    if (e >= kEarly) source.load_values(first_key, e, values[0]);
    add_values(weights, values[e < kEarly ? e : 0], rows.out[e]);
  }
}

/// The warp's part of each row to `parts` [rows_per_block, part_stride(width)].
template <int width>
__device__ __forceinline__ void store_rows(const SplitPlace& place, MmaRows<width>& rows, float* parts) {
  int lane = static_cast<int>(threadIdx.x) % 32, pair = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    int row = lane / 4 + half * 8;
    if (row >= place.rows) continue;
    float* to = parts + row * part_stride(width);
    if (pair == 0) {
      to[width] = rows.maximum[half];
      to[width + 1] = sum;
    }
#pragma unroll
    for (int e = 0; e < width / 64; ++e) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto& out = rows.out[e];
        int column = half * 2 + i / 2, t = i % 2 * 4;
        *reinterpret_cast<float4*>(to + e * 64 + pair * 16 + i * 4) =
            make_float4(out[t][column], out[t + 1][column], out[t + 2][column], out[t + 3][column]);
      }
    }
  }
}

/// Brings keys and values of the block's stretch into L2: all but the newest were written in earlier steps.
__device__ __forceinline__ void prefetch_stretch(const SplitParams& p, const SplitPlace& place) {
  constexpr int kLine = 128, kRounds = 8;  // a long stretch keeps the memory busy by itself
  const SplitSequence& sequence = *place.sequence;
  int row_lines = (p.head_dim * static_cast<int>(sizeof(bf16)) + kLine - 1) / kLine;
  int lines = (place.key_end - place.key_begin) * row_lines, threads = static_cast<int>(blockDim.x);
  int64_t head = place.kv_head * sequence.key_head_stride;
  for (int i = static_cast<int>(threadIdx.x), round = 0; i < lines && round < kRounds; i += threads, ++round) {
    int64_t at = head + (place.key_begin + i / row_lines) * sequence.key_token_stride + i % row_lines * (kLine / 2);
    prefetch_to_l2(static_cast<const bf16*>(sequence.keys) + at);
    prefetch_to_l2(static_cast<const bf16*>(sequence.values) + at);
  }
}

template <int width>
__global__ void __launch_bounds__(kMaxSplitThreads) split_mma_kernel(const __grid_constant__ SplitParams p) {
  extern __shared__ float4 shared_memory[];
  float* shared = reinterpret_cast<float*>(shared_memory);
  let_next_start();
  SplitPlace place = split_place(p, static_cast<int>(blockIdx.x));
  if (place.rows <= 0) return;
  if (p.join == SplitJoin::kernel && static_cast<int>(blockIdx.x) >= place.splits) return;
  prefetch_stretch(p, place);
  wait_for_previous();
  int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  MmaRows<width> rows;
  start_rows<width>(p, place, reinterpret_cast<uint4*>(shared), rows);
  const SplitSequence& sequence = *place.sequence;
  int64_t head = place.kv_head * sequence.key_head_stride;
  MmaSource<width> source{pointer_after_wait(static_cast<const bf16*>(sequence.keys) + head),
                          pointer_after_wait(static_cast<const bf16*>(sequence.values) + head),
                          sequence.key_token_stride,
                          place.key_end - 1,
                          p.head_dim};
  for (int key = place.key_begin + warp * kMmaKeys; key < place.key_end; key += warps * kMmaKeys) {
    add_tile<width>(p, source, key, rows);
  }
  if constexpr (!MmaRows<width>::kHoldsQueries) __syncthreads();  // parts lie where the queries were
  store_rows<width>(place, rows, shared + warp * p.rows_per_block * part_stride(width));
  finish_split<bf16, width>(p, place, shared);
}

}  // namespace weft::cuda
