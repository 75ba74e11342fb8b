// The parts that encoders of the BERT line are composed of. Each is data; none knows a family.
//
// Axes: T tokens of a packed batch, H hidden size, S sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nn/layers.h"
#include "ops/relative_attention.h"

namespace weft {

/// What is the same for all blocks of one forward pass of an encoder.
struct EncoderPass {
  int64_t num_tokens = 0;
  Tensor rope_table;                 // of this batch's positions; undefined without rotary positions
  std::vector<AttentionSpan> spans;  // sequences, with what each token sees
  std::vector<int32_t> positions;    // one a token
  std::vector<int32_t> sequence_of;  // one a token: its sequence, for conditional norms; of this rank's rows
  Tensor condition;                  // [S, width]; undefined without
  KvCache* cache = nullptr;
};

/// A condition's part in a norm's weight and bias (bert4keras' conditional layer norm): weight + dense(c), bias +
/// dense(c) with c the condition itself or act(hidden_dense(c)).
struct ConditionalNorm {
  Linear hidden_dense;  // without weight: none
  Linear weight_dense;
  Linear bias_dense;
  Activation activation = Activation::identity;
};

/// A norm after a residual addition, or alone: layer norm with NAME.weight and NAME.bias, or RMS norm without
/// parameters.
struct PostNorm {
  const Parameter* weight = nullptr;  // null: RMS norm
  const Parameter* bias = nullptr;
  double eps = 1e-12;
  std::shared_ptr<const ConditionalNorm> condition = nullptr;

  Tensor forward(Context& context, const Tensor& x, const EncoderPass& pass) const;
  /// norm(x + residual)
  Tensor forward_add(Context& context, const Tensor& x, const Tensor& residual, const EncoderPass& pass) const;
};

/// Dropout of what a block adds to its input.
struct BranchDropout {
  float probability = 0;
  uint32_t site = 0;

  Tensor forward(Context& context, const Tensor& x, int64_t num_tokens) const;
};

/// down(act(up(x))): up column-parallel, down row-parallel with the reduction.
struct PlainMlp {
  Linear up, down;
  Activation activation = Activation::gelu_erf;

  /// x and the result lie outside the tensor-parallel region.
  Tensor forward(Context& context, const Tensor& x, int64_t num_tokens) const;
};

/// Self-attention of encoders: optionally rotary (neighbours rotated) positions, relative terms, residual scores, key
/// and value sizes of their own.
struct EncoderAttention {
  Linear query, key, value, output;
  RelativeAttentionOptions options;
  bool is_rotary = false;
  int64_t layer = 0;

  /// `terms` are of this rank's heads; `previous_scores` (or null) and the result's scores are for RealFormer.
  RelativeAttentionResult forward(Context& context,
                                  const Tensor& x,
                                  const EncoderPass& pass,
                                  const RelativeTerms& terms,
                                  const Tensor* previous_scores,
                                  bool want_scores) const;
};

/// First row of this rank's share of the tokens outside tensor-parallel regions.
int64_t first_row_of_rank(const Context& context, int64_t num_tokens);

/// This rank's share of a list with an entry a token, missing ones as `fill`.
std::vector<int32_t> rows_of_rank(const Context& context, std::vector<int32_t> values, int32_t fill);

}  // namespace weft
