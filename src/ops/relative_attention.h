// Attention with relative terms, scores of the layer before, other normalisations, or key and value sizes of their own
// (kernels/relative_attention.h). Plain attention is in attention.h.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/relative_attention.h"
#include "ops/attention.h"

namespace weft {

/// Tables that are read by the distance d = position(key) − position(query): row rows[clip(d) + max_distance]. All
/// optional. Those with num_heads times the width have columns for each head, others serve all heads.
struct RelativeTerms {
  std::shared_ptr<const std::vector<int32_t>> rows;  // [2·max_distance + 1]
  int64_t max_distance = 0;
  const Tensor* query_table = nullptr;  // score += query·row
  const Tensor* key_table = nullptr;    // score += key·row
  const Tensor* value_table = nullptr;  // value += row
  const Tensor* bias_table = nullptr;   // [rows, heads]: added to the scaled score
};

struct RelativeAttentionOptions {
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0, value_dim = 0;
  float scale = 1;
  bool causal = false;
  ScoreNormalization normalization = ScoreNormalization::softmax;
  AttentionDropoutSite dropout = {};
};

struct RelativeAttentionInputs {
  const Tensor* q = nullptr;                // [tokens, heads · head_dim]
  const Tensor* k = nullptr;                // [tokens, kv_heads · head_dim]
  const Tensor* v = nullptr;                // [tokens, kv_heads · value_dim]
  const Tensor* previous_scores = nullptr;  // as RelativeAttentionResult::scores, added to the scores; or null
};

struct RelativeAttentionResult {
  Tensor out;     // [tokens, heads · value_dim]
  Tensor scores;  // where asked for: scores before mask and softmax, [heads, queries, keys] of each sequence in turn
};

/// Each sequence attends to itself. `positions` has one a token; empty: 0, 1, … in each sequence.
RelativeAttentionResult relative_attention(Context& context,
                                           const RelativeAttentionInputs& inputs,
                                           std::span<const AttentionSpan> sequences,
                                           std::span<const int32_t> positions,
                                           const RelativeTerms& terms,
                                           const RelativeAttentionOptions& options,
                                           bool want_scores = false);

/// As cached_attention; the value cache is [slots, kv_heads, max_tokens, value_dim]. Has no backward.
Tensor cached_relative_attention(Context& context,
                                 const RelativeAttentionInputs& inputs,
                                 Tensor& key_cache,
                                 Tensor& value_cache,
                                 std::span<const AttentionSpan> sequences,
                                 const RelativeTerms& terms,
                                 const RelativeAttentionOptions& options);

}  // namespace weft
