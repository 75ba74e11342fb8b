// Rotary position embedding (Su et al., "RoFormer", 2021).
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

/// cos and sin of position · inverse_frequency[i], in f32 (f64 when `dtype` is f64), computed once a batch and used by
/// every layer.
struct RopeTableArgs {
  const int32_t* positions = nullptr;         // [rows]
  const double* inverse_frequency = nullptr;  // [rotary_dim / 2]
  void* cos_sin = nullptr;                    // [rows, rotary_dim]: cosines, then sines
  int64_t rows = 0, rotary_dim = 0;
  DType dtype = DType::f32;  // f32 or f64
};

/// Rotates x in place. Half-split pairs are (i, i + rotary_dim/2), interleaved ones (2i, 2i+1); dims past rotary_dim
/// stay. `inverse` turns back, which is the backward. Products in f32, rounded once.
struct RopeArgs {
  void* x = nullptr;              // [rows, num_heads, head_dim]
  const void* cos_sin = nullptr;  // [rows, rotary_dim] of f32 (f64 for f64)
  int64_t rows = 0, num_heads = 0, head_dim = 0, rotary_dim = 0;
  bool interleaved = false;
  bool inverse = false;
  DType dtype = DType::f32;
};

/// New rows of one sequence, and the slots of the caches that its keys and values go to.
struct RotatedCacheWrite {
  void* q = nullptr;              // [count, Hq, D], rotated in place
  const void* k = nullptr;        // [count, Hk, D]
  const void* v = nullptr;        // [count, Hk, D]
  const void* cos_sin = nullptr;  // [count, D]
  void* keys = nullptr;           // element (h, t, d) at h·head_stride + t·D + d
  void* values = nullptr;
  int64_t past = 0, count = 0;  // row i goes to token past + i
};

/// Rotates queries in place, and keys on their way into the cache, into which values are copied as they are. All of a
/// head's dims rotate.
struct RotateIntoCacheArgs {
  std::span<const RotatedCacheWrite> sequences;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, head_stride = 0;
  bool interleaved = false;
  DType dtype = DType::f32;
};

struct RopeKernels {
  void (*table)(const RopeTableArgs&, const Stream&) = nullptr;
  void (*rotate)(const RopeArgs&, const Stream&) = nullptr;
  /// Null: rotate and AttentionKernels::cache_write do as well.
  void (*rotate_into_cache)(const RotateIntoCacheArgs&, const Stream&) = nullptr;
};

}  // namespace weft
