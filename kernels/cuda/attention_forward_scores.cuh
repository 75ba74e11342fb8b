// From products to weights in a forward pass by wgmma: soft cap, biases, masks and the softmax that runs along, of the
// 16 rows of a warp. A thread has the rows lane / 4 and + 8, of them columns 8·n + 2·(lane % 4) and the next.
#pragma once

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_tiles.cuh"

namespace weft::cuda::pipeline {

template <typename S>
using Scores = float[S::kKeys / 8][4];
template <typename S>
using Weights = uint32_t[S::kKeys / 16][4];
/// What a thread knows of its rows.
struct Rows {
  int first = 0;                              // in the block's tile; the other is 8 further
  int2 bounds[2];                             // the keys that they see
  int common_begin = 0, common_end = 0;       // keys that all of the warp's rows see
  float maximum[2] = {-INFINITY, -INFINITY};  // of the products, or of the scores where they are curved
  float sum[2] = {0, 0};                      // this thread's part
};

template <typename S>
__device__ __forceinline__ Rows find_rows(const TileList& list, const ForwardParams& params, const Tile& tile) {
  Rows rows;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp_row = (static_cast<int>(threadIdx.x) / 32 - 4) * 16;
  rows.first = warp_row + lane / 4;
  int last = tile.sequence.query_count - 1;
  auto range = [&](int row) {
    return visible_range(tile.sequence, params, list.visible_keys, min(tile.first_query + row, last));
  };
  rows.bounds[0] = range(rows.first);
  rows.bounds[1] = range(rows.first + 8);
  rows.common_begin = range(warp_row + 15).x;
  rows.common_end = range(warp_row).y;
  return rows;
}

/// Products become capped scores in units of log2. Where all of a warp's are small, tanh x / x is a polynomial of x²,
/// which leaves the unit for powers of two to the weights. Else
/// tanh x = 1 − 2 / (1 + e^2x), whose error of 1e-7 is small beside a cap's.
template <typename S>
__device__ __forceinline__ void cap(Scores<S>& scores, const ForwardParams& params) {
  constexpr float kSmall = 0.75f;
  const float(&terms)[5] = params.cap_terms;
  float inner = params.cap_inner, largest = 0;
#pragma unroll
  for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(scores[n][i]));
  }
  if (__all_sync(0xffffffffu, largest * fabsf(inner) <= kSmall)) {
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float product = scores[n][i], square = product * product;
        float ratio = fmaf(square, terms[4], terms[3]);
#pragma unroll
        for (int k = 2; k >= 0; --k) ratio = fmaf(square, ratio, terms[k]);
        scores[n][i] = product * ratio;
      }
    }
    return;
  }
  float twice_inner = inner * (2 * kLog2E), twice_cap = -2 * params.cap;
#pragma unroll
  for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float power = exp2_approximate(scores[n][i] * twice_inner);
      scores[n][i] = fmaf(twice_cap, __fdividef(1.0f, 1.0f + power), params.cap);
    }
  }
}

/// Products become scores in units of log2 by the curve and the biases. `key`: the tile's first one.
template <typename S>
__device__ __forceinline__ void curve(
    Scores<S>& scores, const Tile& tile, const ForwardParams& params, const Rows& rows, int key) {
  if (params.cap != 0) {
    cap<S>(scores, params);
  } else {
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] *= params.factor;
    }
  }
  if (params.bias == nullptr) return;
  int column = key + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float* bias = bias_of_row(tile, params, rows.first + 8 * r) + column;
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
      scores[n][2 * r] = fmaf(bias[n * 8], kLog2E, scores[n][2 * r]);
      scores[n][2 * r + 1] = fmaf(bias[n * 8 + 1], kLog2E, scores[n][2 * r + 1]);
    }
  }
}

/// What a row does not see gets a weight of zero.
template <typename S>
__device__ __forceinline__ void mask(Scores<S>& scores, const Rows& rows, int key) {
  int column = key + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int begin = rows.bounds[r].x - column, end = rows.bounds[r].y - column;
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (n * 8 + c < begin || n * 8 + c >= end) scores[n][2 * r + c] = -INFINITY;
      }
    }
  }
}

/// Scores become weights relative to each row's new maximum; what was summed before has to shrink by `rescale`.
template <typename S>
__device__ __forceinline__ void soften(Scores<S>& scores, Rows& rows, float (&rescale)[2], float factor) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float old_maximum = rows.maximum[r];
    float maximum = old_maximum;
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) maximum = fmaxf(maximum, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
    rows.maximum[r] = maximum;
    // A row that has seen nothing yet: differences have to stay numbers.
    float shift = maximum == -INFINITY ? 0.0f : maximum * factor;
    rescale[r] = exp2_approximate(fmaf(old_maximum, factor, -shift));
    float sum = 0;
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& weight = scores[n][2 * r + c];
        weight = exp2_approximate(fmaf(weight, factor, -shift));
        sum += weight;
      }
    }
    rows.sum[r] = fmaf(rows.sum[r], rescale[r], sum);
  }
}

/// Products of keys from `key` on become weights.
template <typename S>
__device__ __forceinline__ void weigh(
    Scores<S>& scores, const Tile& tile, const ForwardParams& params, Rows& rows, float (&rescale)[2], int key) {
  if constexpr (S::kIsCurved) curve<S>(scores, tile, params, rows, key);
  bool sees_all = rows.common_begin <= key && key + S::kKeys <= rows.common_end;
  if (!sees_all) mask<S>(scores, rows, key);
  soften<S>(scores, rows, rescale, S::kIsCurved ? 1.0f : params.factor);
}

}  // namespace weft::cuda::pipeline
