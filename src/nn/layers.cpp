#include "nn/layers.h"

#include <array>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/embedding.h"
#include "ops/low_rank.h"
#include "ops/rope.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

Shard bias_shard(const Shard& weight_shard) {
  bool split_over_inputs = weight_shard.kind == ShardKind::columns || weight_shard.kind == ShardKind::head_columns;
  return split_over_inputs ? Shard{} : weight_shard;
}

Tensor with_adapter(Context& context, Tensor y, const Tensor& x, const Linear& projection) {
  const LowRankAdapter* adapter = projection.adapter;
  if (adapter == nullptr) return y;
  const Parameter& a = *adapter->a;
  int64_t column_begin = a.range.dim == 1 ? a.range.begin : 0;
  return add_low_rank(
      context,
      y,
      x,
      {.a = &a.value,
       .b = &adapter->b->value,
       .scale = adapter->scale,
       .dropout = adapter->dropout,
       .site = {.site = adapter->dropout_site, .global_width = a.full_shape[1], .column_begin = column_begin}});
}

}  // namespace

Linear add_linear(ParameterStore& store, const LinearOptions& options) {
  Linear linear;
  Parameter& weight =
      store.add(options.name + ".weight", {options.out_features, options.in_features}, options.shard, true);
  weight.partial_gradient = options.partial_gradient;
  linear.weight = &weight;
  if (!options.with_bias) return linear;
  Parameter& bias = store.add(options.name + ".bias", {options.out_features}, bias_shard(options.shard));
  // Only rank 0 adds a row-parallel layer's bias and sees its gradient.
  bias.partial_gradient = options.partial_gradient ||
                          (bias.shard.kind == ShardKind::replicated && options.shard.kind != ShardKind::replicated);
  linear.bias = &bias;
  return linear;
}

RmsNorm add_rms_norm_layer(ParameterStore& store,
                           const std::string& name,
                           int64_t width,
                           const RmsNormOptions& options) {
  Parameter& weight = store.add(name + ".weight", {width});
  weight.is_norm = true;
  return {&weight, options};
}

Tensor RmsNorm::forward(Context& context, const Tensor& x) const {
  return rms_norm(context, x, weight->value, options);
}

ResidualNorm RmsNorm::forward_add(Context& context, const Tensor& x, const Tensor& residual) const {
  return add_rms_norm(context, x, residual, weight->value, options);
}

ResidualNorm RmsNorm::forward_add_normed(Context& context,
                                         const Tensor& x,
                                         const RmsNorm& inner,
                                         const Tensor& residual) const {
  return add_normed_rms_norm(context, x, inner.weight->value, residual, weight->value, options);
}

ResidualNorm RmsNorm::forward_pass(Context& context, const Tensor& x) const {
  return pass_rms_norm(context, x, weight->value, options);
}

std::vector<Tensor> column_parallel(Context& context, const Tensor& x, std::span<const Linear* const> projections) {
  std::vector<LinearParameters> parameters;
  for (const Linear* projection : projections) parameters.push_back(projection->parameters());
  std::vector<Tensor> results = linear_group(context, x, parameters, x.dtype());
  for (size_t i = 0; i < projections.size(); ++i) {
    results[i] = with_adapter(context, std::move(results[i]), x, *projections[i]);
  }
  return results;
}

Tensor row_parallel(Context& context, const Tensor& x, const Linear& projection) {
  // The bias is replicated and must enter the sum over ranks once: rank 0 adds it.
  LinearParameters parameters = projection.parameters();
  if (context.tensor_parallel != nullptr && context.tensor_parallel->rank() != 0) parameters.bias = nullptr;
  if (projection.adapter == nullptr && !context.sequence_parallel) {
    return linear_reduced_from_tp(context, x, parameters);
  }
  Tensor y = with_adapter(context, linear(context, x, parameters), x, projection);
  return leave_tensor_parallel(context, y);
}

Tensor VocabularyEmbedding::forward(Context& context, std::span<const int32_t> ids, double scale) const {
  float factor = static_cast<float>(scale);
  if (table->value.dtype() == DType::bf16) factor = static_cast<float>(bfloat16(factor));
  return leave_tensor_parallel(context, embedding(context, table->value, ids, table->range.begin, factor));
}

Tensor SelfAttention::forward(Context& context, const Tensor& x, const ForwardPass& pass) const {
  Tensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  std::vector<Tensor> qkv = column_parallel(context, whole, std::array{&q_proj, &k_proj, &v_proj});
  if (pass.cache != nullptr) {
    Tensor& keys = pass.cache->keys(layer);
    Tensor& values = pass.cache->values(layer);
    return row_parallel(
        context,
        rope_cached_attention(context, qkv[0], qkv[1], qkv[2], pass.rope_table, keys, values, pass.spans, options),
        o_proj);
  }
  Tensor q = rope(context, qkv[0], pass.rope_table, options.head_dim);
  Tensor k = rope(context, qkv[1], pass.rope_table, options.head_dim);
  return row_parallel(context, attention(context, q, k, qkv[2], pass.spans, options), o_proj);
}

Tensor GatedMlp::forward(Context& context, const Tensor& x, const ForwardPass& pass) const {
  Tensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  return row_parallel(context, gated(context, whole), down_proj);
}

Tensor GatedMlp::gated(Context& context, const Tensor& x) const {
  if (gate_proj.is_plain() && up_proj.is_plain()) {
    return gated_linear(context, x, gate_proj.weight->value, up_proj.weight->value, activation);
  }
  std::vector<Tensor> gate_up = column_parallel(context, x, std::array{&gate_proj, &up_proj});
  return gated_activation(context, gate_up[0], gate_up[1], activation);
}

}  // namespace weft
