// How attention is cut into pieces that one thread works on alone.
//
// A row is one query of one query head; the query heads that share a kv head are stacked, so that keys and values
// loaded once serve all of them: row r of a piece is query r / group, head r % group, where group = num_heads /
// num_kv_heads.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace weft {

/// Queries [query_begin, query_begin + query_count) of one sequence for one kv head.
struct AttentionWork {
  const AttentionSequence* sequence = nullptr;
  int64_t kv_head = 0;
  int64_t query_begin = 0;  // within the sequence
  int64_t query_count = 0;
  int64_t cost = 0;         // keys seen times rows
  void* scratch = nullptr;  // attention_forward_scratch bytes
};

/// Keys [key_begin, key_end) for the only query of one sequence and one kv head. The result is unnormalised: the
/// weighted sum of values with weights 2^(score − maximum), that maximum in units of log2, and the sum of weights;
/// attention_merge joins the pieces.
struct AttentionDecodeWork {
  const AttentionSequence* sequence = nullptr;
  int64_t kv_head = 0;
  int64_t key_begin = 0, key_end = 0;
  void* partial = nullptr;  // [group, head_dim + 2] of f32 (f64): weighted values, maximum, sum of weights
};

/// Joins `count` pieces of one sequence and kv head, `partial_stride` elements apart, into out and log_sum_exp.
struct AttentionMergeWork {
  const AttentionSequence* sequence = nullptr;
  int64_t kv_head = 0;
  const void* partials = nullptr;
  int64_t count = 0;
};

/// All queries and keys of one sequence and one kv head.
struct AttentionBackwardWork {
  const AttentionSequence* sequence = nullptr;
  int64_t kv_head = 0;
  int64_t key_begin = 0;    // row of the sequence's first key in k and v
  void* dbias = nullptr;    // [group, distances()] of f32 (f64), zeros; null: not wanted
  void* scratch = nullptr;  // attention_backward_scratch bytes

  /// Distances of the sequence's queries and keys: query i and key j lie at query_count − 1 + j − i.
  int64_t distances() const { return sequence->query_count + sequence->key_count - 1 + kAttentionBiasPadding; }
};

}  // namespace weft
