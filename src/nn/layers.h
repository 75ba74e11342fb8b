// The parts that decoder families are composed of: parameters with their shard rule, and a forward. Each is data; none
// knows a family.
//
// Axes: T tokens of a packed batch, H hidden size.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "nn/kv_cache.h"
#include "nn/parameter.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace weft {

/// What is the same for all layers of one forward pass.
struct ForwardPass {
  int64_t num_tokens = 0;            // of the whole batch
  Tensor rope_table;                 // of this batch's positions
  std::vector<AttentionSpan> spans;  // sequences
  KvCache* cache = nullptr;          // null: each sequence attends to itself only
};

/// A low-rank update beside a linear layer (LoRA): this rank's slices of its factors.
struct LowRankAdapter {
  const Parameter* a = nullptr;  // [rank, in_features]
  const Parameter* b = nullptr;  // [out_features, rank]
  double scale = 1;
  float dropout = 0;
  uint32_t dropout_site = 0;
};

/// Weight and bias of a product, and what is added to it. `Linear` itself does not communicate.
struct Linear {
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;
  const LowRankAdapter* adapter = nullptr;

  LinearParameters parameters() const { return {&weight->value, bias != nullptr ? &bias->value : nullptr}; }
  /// A weight and nothing else.
  bool is_plain() const { return bias == nullptr && adapter == nullptr; }
};

/// Declares NAME.weight [out, in] and, with_bias, NAME.bias [out]. Biases of a column-split weight are replicated.
struct LinearOptions {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  Shard shard;
  bool with_bias = false;
  bool partial_gradient = false;  // of a replicated layer of which each rank's backward sees a part
};
Linear add_linear(ParameterStore& store, const LinearOptions& options);

/// Products of one x, inside the tensor-parallel region; with adapters.
std::vector<Tensor> column_parallel(Context& context, const Tensor& x, std::span<const Linear* const> projections);
/// A product whose results are summed over the ranks; leaves the tensor-parallel region.
Tensor row_parallel(Context& context, const Tensor& x, const Linear& projection);

/// NAME.weight [width].
struct RmsNorm {
  const Parameter* weight = nullptr;
  RmsNormOptions options;

  Tensor forward(Context& context, const Tensor& x) const;
  /// {x + residual, its norm}
  ResidualNorm forward_add(Context& context, const Tensor& x, const Tensor& residual) const;
  /// {inner's norm of x + residual, its norm}
  ResidualNorm forward_add_normed(Context& context,
                                  const Tensor& x,
                                  const RmsNorm& inner,
                                  const Tensor& residual) const;
  /// {x, its norm}
  ResidualNorm forward_pass(Context& context, const Tensor& x) const;
};
RmsNorm add_rms_norm_layer(ParameterStore& store,
                           const std::string& name,
                           int64_t width,
                           const RmsNormOptions& options);

/// Token table split over the vocabulary; also the tied output head.
struct VocabularyEmbedding {
  const Parameter* table = nullptr;  // [vocabulary, H]

  /// [T, H] outside the tensor-parallel region, times `scale` rounded to the compute dtype.
  Tensor forward(Context& context, std::span<const int32_t> ids, double scale) const;
};

/// Grouped-query self-attention with rotary positions: q, k, v column-parallel by heads, output row-parallel with the
/// reduction.
struct SelfAttention {
  Linear q_proj, k_proj, v_proj, o_proj;
  AttentionOptions options;
  int64_t layer = 0;

  /// x and the result lie outside the tensor-parallel region (ops/collective.h).
  Tensor forward(Context& context, const Tensor& x, const ForwardPass& pass) const;
};

/// down(act(gate(x)) · up(x)): gate and up column-parallel, down row-parallel with the reduction.
struct GatedMlp {
  Linear gate_proj, up_proj, down_proj;
  Activation activation = Activation::silu;

  /// As for attention.
  Tensor forward(Context& context, const Tensor& x, const ForwardPass& pass) const;

 private:
  Tensor gated(Context& context, const Tensor& x) const;
};

}  // namespace weft
