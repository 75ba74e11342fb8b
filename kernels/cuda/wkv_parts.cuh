// What the kernels of RWKV-6's recurrence share: parameters, where a sequence's head lies, and how the threads of a
// block move a chunk of tokens.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/wkv.h"

namespace weft::cuda {

inline constexpr int kWkvChunk = 16;
/// Numbers of each array that a thread of 4 · width moves for a chunk.
inline constexpr int kWkvLoads = kWkvChunk / 4;
/// Sequences that fit a kernel's parameters; more are uploaded.
inline constexpr size_t kInlineWkvSequences = 32;

struct WkvParams {
  const void* r = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const float* w = nullptr;
  const void* u = nullptr;
  void* y = nullptr;
  float* boundary_states = nullptr;
  const WkvSequence* uploaded = nullptr;  // null: inlined
  int32_t num_sequences = 0, num_heads = 0, head_size = 0;
  WkvSequence inlined[kInlineWkvSequences];
};

/// A sequence's head.
struct WkvHead {
  const WkvSequence* sequence;
  int64_t index, head, length;

  __device__ __forceinline__ WkvHead(const WkvParams& p, int64_t sequence_index, int64_t head_index)
      : sequence((p.uploaded != nullptr ? p.uploaded : p.inlined) + sequence_index),
        index(sequence_index),
        head(head_index),
        length(sequence->length) {}

  /// Offset of a token's first channel.
  __device__ __forceinline__ int64_t at(const WkvParams& p, int64_t token) const {
    return ((sequence->begin + token) * p.num_heads + head) * p.head_size;
  }
  /// Offset in states [*, H, N, N].
  __device__ __forceinline__ int64_t state_at(const WkvParams& p, int64_t row) const {
    return (row * p.num_heads + head) * p.head_size * p.head_size;
  }
  __device__ __forceinline__ float* boundary(const WkvParams& p, int64_t number) const {
    return p.boundary_states + state_at(p, sequence->first_boundary + number);
  }
};

/// Of number e of a chunk's numbers that this thread moves: which token, and which channel (of all e).
template <int width>
__device__ __forceinline__ int wkv_load_token(int e) {
  return e * 4 + static_cast<int>(threadIdx.x) / width;
}
template <int width>
__device__ __forceinline__ int wkv_channel() {
  return static_cast<int>(threadIdx.x) % width;
}

/// exp(w), finite, where more makes no difference to exp(−exp(w)) = 0.
__device__ __forceinline__ float wkv_rate(float w) {
  return expf(w > 7.0f ? 7.0f : w);
}

template <typename T>
__device__ __forceinline__ float wkv_bonus(const WkvParams& p, const WkvHead& head, int channel) {
  if (channel >= p.head_size) return 0;
  return to_float(static_cast<const T*>(p.u)[head.head * p.head_size + channel]);
}

/// The tokens that exist of a chunk, rounded.
template <typename T, int width>
__device__ __forceinline__ void wkv_store(
    const WkvParams& p, const WkvHead& head, int64_t first, const float (&rows)[kWkvChunk][width], void* to) {
  int channel = wkv_channel<width>();
#pragma unroll
  for (int e = 0; e < kWkvLoads; ++e) {
    int token = wkv_load_token<width>(e);
    if (first + token >= head.length || channel >= p.head_size) continue;
    static_cast<T*>(to)[head.at(p, first + token) + channel] = from_float<T>(rows[token][channel]);
  }
}

}  // namespace weft::cuda
