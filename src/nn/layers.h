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
  Tensor rope_table;                 // of this batch's positions
  std::vector<AttentionSpan> spans;  // sequences
  KvCache* cache = nullptr;          // null: each sequence attends to itself only
};

/// Weight and bias of a product. `Linear` itself does not communicate.
struct Linear {
  const Parameter* weight = nullptr;
  const Parameter* bias = nullptr;

  LinearParameters parameters() const { return {&weight->value, bias != nullptr ? &bias->value : nullptr}; }
};

/// Declares NAME.weight [out, in] and, with_bias, NAME.bias [out]. Biases of a column-split weight are replicated.
struct LinearOptions {
  std::string name;
  int64_t out_features = 0;
  int64_t in_features = 0;
  Shard shard;
  bool with_bias = false;
};
Linear add_linear(ParameterStore& store, const LinearOptions& options);

/// NAME.weight [width].
struct RmsNorm {
  const Parameter* weight = nullptr;
  RmsNormOptions options;

  Tensor forward(Context& context, const Tensor& x) const;
  ResidualNorm forward_add(Context& context, const Tensor& x, const Tensor& residual) const;
};
RmsNorm add_rms_norm_layer(ParameterStore& store,
                           const std::string& name,
                           int64_t width,
                           const RmsNormOptions& options);

/// Token table split over the vocabulary; also the tied output head.
struct VocabularyEmbedding {
  const Parameter* table = nullptr;  // [vocabulary, H]

  /// [T, H] on every rank, times `scale` rounded to the compute dtype.
  Tensor forward(Context& context, std::span<const int32_t> ids, double scale) const;
};

/// Grouped-query self-attention with rotary positions: q, k, v column-parallel by heads, output row-parallel with the
/// reduction.
struct SelfAttention {
  Linear q_proj, k_proj, v_proj, o_proj;
  AttentionOptions options;
  int64_t layer = 0;

  /// x is [T, H], already the output of copy_to_tp.
  Tensor forward(Context& context, const Tensor& x, const ForwardPass& pass) const;
};

/// down(act(gate(x)) · up(x)): gate and up column-parallel, down row-parallel with the reduction.
struct GatedMlp {
  Linear gate_proj, up_proj, down_proj;
  Activation activation = Activation::silu;

  Tensor forward(Context& context, const Tensor& x) const;
};

}  // namespace weft
