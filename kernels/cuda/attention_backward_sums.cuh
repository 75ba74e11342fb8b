// Where the sums of a block of attention's backward on tensor cores lie, and how partial ones are added up.
#pragma once

#include "kernels/cuda/attention_backward.cuh"

namespace weft::cuda {
namespace {

constexpr int kGroupRows = 64;  // of a group of four warps

/// The form of a block for head dims up to kDim.
template <int kDimensions, bool owns_keys>
struct BlockForm {
  static constexpr int kDim = kDimensions;
  static constexpr bool kOwnsKeys = owns_keys;
  // Three where registers allow, so that products of one run beside the exponentials of the others.
  static constexpr int kGroups = kOwnsKeys && kDim == 64 ? 3 : 2;
  static constexpr int kThreads = 128 * kGroups;
  // Both sums of 256 dims do not fit one group's registers: the groups own the same rows, each a half of the dims.
  static constexpr int kParts = kOwnsKeys && kDim == 256 ? 2 : 1;
  static constexpr int kOwnRows = kGroupRows * kGroups / kParts;
  static constexpr int kSumDims = kDim / kParts;
  static constexpr int kOtherRows = !kOwnsKeys && kDim == 256 ? 32 : 64;
  static constexpr int kBlocksAtOnce = !kOwnsKeys && kDim == 64 ? 2 : 1;  // on a multiprocessor

  static constexpr int kOwnBytes = kOwnRows * kDim * 2;
  static constexpr int kOtherBytes = kOtherRows * kDim * 2;
  static constexpr int kStageBytes = 2 * kOtherBytes;
  // Behind the matrices: of each stage's queries statistics and ranges; or what warps sum dbias from.
  static constexpr int kExtrasBegin = 2 * kOwnBytes + 2 * kStageBytes;
  static constexpr int kDiagonalPitch = kOtherRows + 1;
  static constexpr int kExtrasBytes =
      kOwnsKeys ? 2 * kOtherRows * 16 : kThreads / 32 * 16 * kDiagonalPitch * static_cast<int>(sizeof(float));
  static constexpr int kAlignment = 1024;
  static constexpr int kSharedBytes = kExtrasBegin + kExtrasBytes + kAlignment;
};

/// The thread's first row in the block's tile, the second one 8 further.
template <typename Form>
__device__ __forceinline__ int own_row(int group) {
  int group_row = Form::kParts > 1 ? 0 : group * kGroupRows;
  return group_row + static_cast<int>(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4);
}

/// Two neighbouring dims of a row of a gradient, with `room` dims left in the row.
__device__ __forceinline__ void store_pair(
    const BackwardParams& params, bf16* to, int room, float first, float second) {
  if (params.is_aligned) {
    if (room > 0) *reinterpret_cast<uint32_t*>(to) = pack_bf16(first, second);
    return;
  }
  if (room > 0) to[0] = from_float<bf16>(first);
  if (room > 1) to[1] = from_float<bf16>(second);
}

/// Floats of a block's partial dk and dv.
template <typename Form>
constexpr int64_t kPartialFloats = int64_t{2} * Form::kThreads*(Form::kSumDims / 2);

/// Sums j of this thread: [partial][dk or dv][j][thread].
template <typename Form>
__device__ __forceinline__ float4* partial_place(const BackwardParams& params, int partial, int which, int j) {
  int64_t place = (int64_t{2} * partial + which) * (Form::kSumDims / 8) + j;
  return reinterpret_cast<float4*>(params.partials) + place * Form::kThreads + threadIdx.x;
}

template <typename Form>
__device__ __forceinline__ void keep_partial(const BackwardParams& params,
                                             int partial,
                                             int which,
                                             const float (&sums)[Form::kSumDims / 8][4]) {
  float4* to = partial_place<Form>(params, partial, which, 0);
#pragma unroll
  for (int j = 0; j < Form::kSumDims / 8; ++j)
    to[j * Form::kThreads] = make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]);
}

constexpr int kSumsAtOnce = 4;  // of the kSumDims / 8 that a thread has

/// Blocks for each split tile.
template <typename Form>
constexpr int kSumBlocks = 2 * (Form::kSumDims / 8 / kSumsAtOnce);

/// dk and dv of split tiles; the threads have the places that they had when the partial sums were made.
template <typename Form>
__global__ void __launch_bounds__(Form::kThreads)
    sum_partials(const __grid_constant__ BackwardParams params, const BackwardSplit* splits) {
  BackwardSplit split = splits[blockIdx.x / kSumBlocks<Form>];
  BackwardSequence sequence = params.sequences[split.sequence];
  int which = static_cast<int>(blockIdx.x) % kSumBlocks<Form> % 2;
  int first = static_cast<int>(blockIdx.x) % kSumBlocks<Form> / 2 * kSumsAtOnce;
  float4 sums[kSumsAtOnce] = {};
#pragma unroll 2
  for (int partial = split.first_partial; partial < split.first_partial + split.num_partials; ++partial) {
    const float4* from = partial_place<Form>(params, partial, which, first);
#pragma unroll
    for (int j = 0; j < kSumsAtOnce; ++j) {
      float4 more = from[j * Form::kThreads];
      sums[j] = make_float4(sums[j].x + more.x, sums[j].y + more.y, sums[j].z + more.z, sums[j].w + more.w);
    }
  }
  float factor = which == 0 ? params.score_factor : 1;
  bf16* array = static_cast<bf16*>(which == 0 ? params.dk : params.dv);
  int group = static_cast<int>(threadIdx.x) / 128;
  int row = split.begin + own_row<Form>(group);
  int column = (Form::kParts > 1 ? group : 0) * Form::kSumDims + 8 * first + static_cast<int>(threadIdx.x) % 4 * 2;
  bf16* to = array +
             ((static_cast<int64_t>(sequence.key_begin) + row) * params.num_kv_heads + split.head) * params.head_dim +
             column;
  int64_t further = int64_t{8} * params.num_kv_heads * params.head_dim;
#pragma unroll
  for (int j = 0; j < kSumsAtOnce; ++j) {
    int room = params.head_dim - column - 8 * j;
    if (row < sequence.key_count) store_pair(params, to + 8 * j, room, sums[j].x * factor, sums[j].y * factor);
    if (row + 8 < sequence.key_count)
      store_pair(params, to + further + 8 * j, room, sums[j].z * factor, sums[j].w * factor);
  }
}

}  // namespace
}  // namespace weft::cuda
