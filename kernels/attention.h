// Scaled dot-product attention over sequences of different length, packed without padding (FlashAttention's tiling:
// Dao, 2023).
//
// Axes: T query tokens of all sequences together, Hq query heads, Hk key/value heads (Hq a multiple of Hk; query head h
// reads kv head h / (Hq/Hk)), D head_dim.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/attention_dropout.h"
#include "kernels/stream.h"

namespace weft {

/// Where one sequence's queries, keys and values lie. Key j of kv head h is at keys + h·key_head_stride +
/// j·key_token_stride (in elements), D contiguous elements; values likewise with the same strides. Query i of the
/// sequence stands at position key_count − query_count + i.
struct AttentionSequence {
  int64_t query_begin = 0;  // first row in q
  int64_t query_count = 0;
  int64_t key_count = 0;  // keys seen by the last query: past + query_count
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t key_token_stride = 0;
  int64_t key_head_stride = 0;
  /// [query_count], never falling, 1 to key_count: query i sees keys [0, visible_keys[i]), whatever causal and window
  /// say. Null: the mask says.
  const int32_t* visible_keys = nullptr;
  /// Where query 0 and key 0 meet in a head's row of AttentionBias: query i and key j at bias_origin + j − i.
  int64_t bias_origin = 0;
};

/// How scores become weights. score = scale·q·k; with soft_cap c: c·tanh(score/c); keys with position > query's are
/// left out when causal, and those with query − key ≥ window when window > 0. Softmax in f32.
struct AttentionMask {
  float scale = 1;
  float soft_cap = 0;  // 0: none
  int64_t window = 0;  // 0: none
  bool causal = true;
};

/// A number by head and distance that is added to the scores, after the soft cap (T5: Raffel et al., 2020).
struct AttentionBias {
  const void* values = nullptr;  // [Hq, stride] f32 (f64 for f64); null: none
  int64_t stride = 0;            // at least bias_origin + key_count + kAttentionBiasPadding of every sequence
};

/// Numbers behind the last one that counts, which are read and not used.
inline constexpr int64_t kAttentionBiasPadding = 128;

struct AttentionForwardArgs {
  const void* q = nullptr;      // [T, Hq, D]
  void* out = nullptr;          // [T, Hq, D]
  void* log_sum_exp = nullptr;  // [T, Hq] f32 (f64 for f64), kept for backward, or null
  std::span<const AttentionSequence> sequences;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  AttentionMask mask;
  AttentionBias bias = {};
  AttentionDropout dropout = {};
  DType dtype = DType::f32;
};

/// Without a cache: keys and values of all sequences are packed [Tk, Hk, D] one after the other, as are the queries.
struct AttentionBackwardArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* out = nullptr;
  const void* dout = nullptr;
  const void* log_sum_exp = nullptr;
  void* dq = nullptr;  // all three are overwritten
  void* dk = nullptr;
  void* dv = nullptr;
  std::span<const AttentionSequence> sequences;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  AttentionMask mask;
  AttentionBias bias = {};
  AttentionDropout dropout = {};  // as in forward
  void* dbias = nullptr;          // as bias.values; added to; null: not wanted
  DType dtype = DType::f32;
};

/// Copies new keys (or values) into a cache slot: row i of the sequence goes to token past + i of each head.
struct CacheWriteArgs {
  const void* source = nullptr;  // [query_count, Hk, D], rows of this sequence
  void* cache = nullptr;         // the slot: element (h, t, d) at h·head_stride + t·D + d
  int64_t past = 0, count = 0;
  int64_t num_kv_heads = 0, head_dim = 0, head_stride = 0;
  DType dtype = DType::f32;
};

/// From a table by row and head to AttentionBias: distance d of `count` reads row rows[d]. And back: a table's gradient
/// is the sum over the distances that read it.
struct BiasExpandArgs {
  const void* table = nullptr;    // [table rows, Hq] of dtype
  const int32_t* rows = nullptr;  // [count]
  void* bias = nullptr;           // [Hq, stride]; what lies behind `count` becomes 0
  int64_t count = 0, num_heads = 0, stride = 0;
  DType dtype = DType::f32;
};
struct BiasReduceArgs {
  const void* dbias = nullptr;  // [Hq, stride]
  const int32_t* rows = nullptr;
  void* dtable = nullptr;  // [table rows, Hq] f32 (f64 for f64); added to
  int64_t count = 0, num_heads = 0, stride = 0;
  DType dtype = DType::f32;  // of the table
};

struct AttentionKernels {
  void (*forward)(const AttentionForwardArgs&, const Stream&) = nullptr;
  void (*backward)(const AttentionBackwardArgs&, const Stream&) = nullptr;
  void (*cache_write)(std::span<const CacheWriteArgs>, const Stream&) = nullptr;
  void (*bias_expand)(const BiasExpandArgs&, const Stream&) = nullptr;
  void (*bias_reduce)(const BiasReduceArgs&, const Stream&) = nullptr;
};

}  // namespace weft
