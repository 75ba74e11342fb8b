// Attention whose scores are more than q·k: tables by the distance of two tokens (Shaw et al., 2018; NEZHA; DeBERTa;
// T5), scores of the layer before (RealFormer: He et al., 2020), other normalisations (GAU); with key and value sizes
// of their own. Scores of one sequence and head are held in memory at a time.
//
// Axes as in attention.h; D size of queries and keys, V of values, R rows of the tables.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/attention_dropout.h"
#include "kernels/stream.h"

namespace weft {

/// softmax_plus: softmax(s · ln(max(l, 16)) / ln 512); squared_relu: max(s, 0)² / l, where l keys are seen.
enum class ScoreNormalization : uint8_t { softmax, softmax_plus, squared_relu };

/// As AttentionSequence, with strides of their own for values.
struct RelativeSequence {
  int64_t query_begin = 0, query_count = 0, key_count = 0;
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t key_token_stride = 0, key_head_stride = 0;
  int64_t value_token_stride = 0, value_head_stride = 0;
  const int32_t* visible_keys = nullptr;     // [query_count]; null: as causal says
  const int32_t* query_positions = nullptr;  // [query_count]; null: key_count − query_count + i
  const int32_t* key_positions = nullptr;    // [key_count]; null: j
  int64_t scores_begin = 0;                  // of its [Hq, query_count, key_count] in previous and kept scores
};

/// A table read by distance: element (row, head, d) at row·row_stride + head·head_stride + d.
struct DistanceTable {
  const void* values = nullptr;
  int64_t row_stride = 0, head_stride = 0;
};

/// score(i, j) = (q_i·k_j + q_i·query_table[r] + k_j·key_table[r])·scale + bias_table[r, head] + previous(i, j) with
/// r = rows[clip(position_j − position_i) + max_distance]; out_i = Σ_j weight(i, j)·(v_j + value_table[r]).
struct RelativeAttentionArgs {
  const void* q = nullptr;  // [T, Hq, D]
  void* out = nullptr;      // [T, Hq, V]
  std::span<const RelativeSequence> sequences;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, value_dim = 0;
  const int32_t* rows = nullptr;  // [2·max_distance + 1]; null: no tables
  int64_t max_distance = 0, table_rows = 0;
  DistanceTable query_table = {};
  DistanceTable key_table = {};
  DistanceTable value_table = {};
  DistanceTable bias_table = {};
  const void* previous_scores = nullptr;  // dtype; or null
  void* scores = nullptr;                 // dtype, before mask and normalisation; or null
  float scale = 1;
  bool causal = false;
  ScoreNormalization normalization = ScoreNormalization::softmax;
  AttentionDropout dropout = {};
  DType dtype = DType::f32;
};

/// Gradients of all inputs, of packed sequences (no cache). dq, dk, dv are overwritten; those of tables, in f32 (f64
/// for f64) with the tables' strides, are added to; null: not wanted.
struct RelativeAttentionBackwardArgs {
  RelativeAttentionArgs forward;  // q, sequences, tables, previous scores, options; out and scores unused
  const void* dout = nullptr;
  const void* dscores = nullptr;  // gradient of the scores that forward gave; or null
  void* dq = nullptr;
  void* dk = nullptr;  // [T, Hk, D]
  void* dv = nullptr;  // [T, Hk, V]
  void* dquery_table = nullptr;
  void* dkey_table = nullptr;
  void* dvalue_table = nullptr;
  void* dbias_table = nullptr;
  void* dprevious_scores = nullptr;  // dtype, overwritten
};

struct RelativeAttentionKernels {
  void (*forward)(const RelativeAttentionArgs&, const Stream&) = nullptr;
  void (*backward)(const RelativeAttentionBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
