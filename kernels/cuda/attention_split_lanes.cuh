// Decoding in f32, and in bf16 where the tensor cores' kernel cannot read: groups of lanes take a key each, every lane
// of a group eight of its dims. The group's sums of products are formed by shuffles; each group keeps rows of its own,
// which are joined at the end.
#pragma once

#include "kernels/cuda/attention_split.cuh"

namespace weft::cuda {

/// What a group of `lanes` lanes keeps of its rows; its dims are 4·lane + 0 to 3 and these plus 4·lanes.
template <int lanes, int max_rows>
struct LaneRows {
  float query[max_rows][8];
  float out[max_rows][8];
  float maximum[max_rows], sum[max_rows];
  SplitRange range[max_rows];
};

/// This lane's dims of a row; zeros where there is none.
template <typename T, int lanes>
__device__ __forceinline__ void load_dims(const T* row, int head_dim, bool is_wide, float (&to)[8]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int d = half * 4 * lanes + static_cast<int>(threadIdx.x) % lanes * 4;
    Pack<T, 4> pack{{from_float<T>(0), from_float<T>(0), from_float<T>(0), from_float<T>(0)}};
    if (is_wide) {
      if (d < head_dim) pack = *reinterpret_cast<const Pack<T, 4>*>(row + d);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (d + i < head_dim) pack.values[i] = row[d + i];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) to[half * 4 + i] = to_float(pack.values[i]);
  }
}

template <typename T, int lanes, int max_rows>
__device__ __forceinline__ void start_rows(const SplitParams& p,
                                           const SplitPlace& place,
                                           LaneRows<lanes, max_rows>& rows) {
#pragma unroll
  for (int r = 0; r < max_rows; ++r) {
    rows.maximum[r] = kMaskedScore;
    rows.sum[r] = 0;
    rows.range[r] = row_range(p, place, r);
#pragma unroll
    for (int i = 0; i < 8; ++i) rows.query[r][i] = rows.out[r][i] = 0;
    if (r < place.rows) {
      const T* q = static_cast<const T*>(p.q) + row_in_batch(p, place, r) * p.head_dim;
      load_dims<T, lanes>(q, p.head_dim, p.is_wide, rows.query[r]);
    }
  }
}

/// Scores of the group's keys for row r; what is masked counts for nothing in soften_row.
template <int lanes, int max_rows, int count>
__device__ __forceinline__ void score_row(const SplitParams& p,
                                          const SplitPlace& place,
                                          const LaneRows<lanes, max_rows>& rows,
                                          int r,
                                          const int (&key)[count],
                                          const float (&keys)[count][8],
                                          float (&scores)[count]) {
#pragma unroll
  for (int u = 0; u < count; ++u) {
    float product = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) product += rows.query[r][i] * keys[u][i];
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      product += __shfl_xor_sync(0xffffffffu, product, distance);
    scores[u] = split_score(p, product);
    if (p.bias != nullptr && key[u] >= rows.range[r].begin && key[u] < rows.range[r].end)
      scores[u] += kSplitLog2E * bias_row(p, place, r)[key[u]];
  }
}

/// Adds the values with the weights of their scores.
template <int lanes, int max_rows, int count>
__device__ __forceinline__ void soften_row(LaneRows<lanes, max_rows>& rows,
                                           int r,
                                           const int (&key)[count],
                                           const float (&values)[count][8],
                                           const float (&scores)[count]) {
  bool is_visible[count];
  float maximum = rows.maximum[r];
#pragma unroll
  for (int u = 0; u < count; ++u) {
    is_visible[u] = key[u] >= rows.range[r].begin && key[u] < rows.range[r].end;
    if (is_visible[u]) maximum = fmaxf(maximum, scores[u]);
  }
  float shrink = exp2f(rows.maximum[r] - maximum);
  rows.maximum[r] = maximum;
  rows.sum[r] *= shrink;
#pragma unroll
  for (int i = 0; i < 8; ++i) rows.out[r][i] *= shrink;
#pragma unroll
  for (int u = 0; u < count; ++u) {
    float weight = is_visible[u] ? exp2f(scores[u] - maximum) : 0.0f;
    rows.sum[r] += weight;
#pragma unroll
    for (int i = 0; i < 8; ++i) rows.out[r][i] += weight * values[u][i];
  }
}

/// Joins the groups of a warp; then every group has the warp's sums.
template <int lanes, int max_rows>
__device__ __forceinline__ void join_groups(LaneRows<lanes, max_rows>& rows) {
#pragma unroll
  for (int r = 0; r < max_rows; ++r) {
#pragma unroll
    for (int distance = lanes; distance < 32; distance *= 2) {
      float other = __shfl_xor_sync(0xffffffffu, rows.maximum[r], distance);
      float maximum = fmaxf(rows.maximum[r], other);
      float shrink = exp2f(rows.maximum[r] - maximum);
      rows.maximum[r] = maximum;
      rows.sum[r] *= shrink;
      rows.sum[r] += __shfl_xor_sync(0xffffffffu, rows.sum[r], distance);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        rows.out[r][i] *= shrink;
        rows.out[r][i] += __shfl_xor_sync(0xffffffffu, rows.out[r][i], distance);
      }
    }
  }
}

/// The warp's part of each row to `parts` [rows_per_block, part_stride(8 · lanes)].
template <int lanes, int max_rows>
__device__ __forceinline__ void store_rows(const SplitPlace& place,
                                           const LaneRows<lanes, max_rows>& rows,
                                           float* parts) {
  constexpr int kWidth = 8 * lanes;
  int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane >= lanes) return;
#pragma unroll
  for (int r = 0; r < max_rows; ++r) {
    if (r >= place.rows) break;
    float* to = parts + r * part_stride(kWidth);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* from = rows.out[r] + half * 4;
      *reinterpret_cast<float4*>(to + half * 4 * lanes + lane * 4) = make_float4(from[0], from[1], from[2], from[3]);
    }
    if (lane == 0) {
      to[kWidth] = rows.maximum[r];
      to[kWidth + 1] = rows.sum[r];
    }
  }
}

/// The keys of a block's stretch, `kCount` a group of lanes at a time.
template <typename T, int lanes, int max_rows>
__device__ __forceinline__ void add_keys(const SplitParams& p,
                                         const SplitPlace& place,
                                         LaneRows<lanes, max_rows>& rows) {
  constexpr int kGroups = 32 / lanes, kCount = max_rows >= 8 ? 2 : 4;
  const SplitSequence& sequence = *place.sequence;
  int64_t head = place.kv_head * sequence.key_head_stride;
  const T* key_rows = static_cast<const T*>(sequence.keys) + head;
  const T* value_rows = static_cast<const T*>(sequence.values) + head;
  int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  int group = static_cast<int>(threadIdx.x) % 32 / lanes;
  constexpr int kTile = kGroups * kCount;
  // All lanes of a warp take as many steps.
  for (int first = place.key_begin + warp * kTile; first < place.key_end; first += warps * kTile) {
    int key[kCount];
    float keys[kCount][8], values[kCount][8];
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      key[u] = first + u * kGroups + group;
      int64_t at = min(key[u], place.key_end - 1) * sequence.key_token_stride;
      load_dims<T, lanes>(key_rows + at, p.head_dim, p.is_wide, keys[u]);
      load_dims<T, lanes>(value_rows + at, p.head_dim, p.is_wide, values[u]);
    }
#pragma unroll
    for (int r = 0; r < max_rows; ++r) {
      if (r >= place.rows) break;
      float scores[kCount];
      score_row<lanes, max_rows, kCount>(p, place, rows, r, key, keys, scores);
      soften_row<lanes, max_rows, kCount>(rows, r, key, values, scores);
    }
  }
}

template <typename T, int lanes, int max_rows>
__global__ void __launch_bounds__(kMaxSplitThreads) split_lanes_kernel(const __grid_constant__ SplitParams p) {
  extern __shared__ float4 shared_memory[];
  float* shared = reinterpret_cast<float*>(shared_memory);
  let_next_start();
  wait_for_previous();
  SplitPlace place = split_place(p, static_cast<int>(blockIdx.x));
  if (place.rows <= 0) return;
  if (p.join == SplitJoin::kernel && static_cast<int>(blockIdx.x) >= place.splits) return;
  LaneRows<lanes, max_rows> rows;
  start_rows<T, lanes, max_rows>(p, place, rows);
  add_keys<T, lanes, max_rows>(p, place, rows);
  join_groups<lanes, max_rows>(rows);
  int warp = static_cast<int>(threadIdx.x) / 32;
  store_rows<lanes, max_rows>(place, rows, shared + warp * p.rows_per_block * part_stride(8 * lanes));
  finish_split<T, 8 * lanes>(p, place, shared);
}

}  // namespace weft::cuda
