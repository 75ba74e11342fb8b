#include "nn/layers.h"

#include <array>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/embedding.h"
#include "ops/rope.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

Shard bias_shard(const Shard& weight_shard) {
  bool split_over_inputs = weight_shard.kind == ShardKind::columns || weight_shard.kind == ShardKind::head_columns;
  return split_over_inputs ? Shard{} : weight_shard;
}

/// The bias is replicated and must enter the sum over ranks once: rank 0 adds it.
Tensor row_parallel(Context& context, const Tensor& x, const Linear& projection) {
  LinearParameters parameters = projection.parameters();
  if (context.tensor_parallel != nullptr && context.tensor_parallel->rank() != 0) parameters.bias = nullptr;
  return reduce_from_tp(context, linear(context, x, parameters));
}

}  // namespace

Linear add_linear(ParameterStore& store, const LinearOptions& options) {
  Linear linear;
  linear.weight =
      &store.add(options.name + ".weight", {options.out_features, options.in_features}, options.shard, true);
  if (options.with_bias)
    linear.bias = &store.add(options.name + ".bias", {options.out_features}, bias_shard(options.shard));
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

Tensor VocabularyEmbedding::forward(Context& context, std::span<const int32_t> ids, double scale) const {
  float factor = static_cast<float>(scale);
  if (table->value.dtype() == DType::bf16) factor = static_cast<float>(bfloat16(factor));
  return reduce_from_tp(context, embedding(context, table->value, ids, table->range.begin, factor));
}

Tensor SelfAttention::forward(Context& context, const Tensor& x, const ForwardPass& pass) const {
  std::array<LinearParameters, 3> projections = {q_proj.parameters(), k_proj.parameters(), v_proj.parameters()};
  std::vector<Tensor> qkv = linear_group(context, x, projections, x.dtype());
  Tensor q = rope(context, qkv[0], pass.rope_table, options.head_dim);
  Tensor k = rope(context, qkv[1], pass.rope_table, options.head_dim);
  Tensor mixed =
      pass.cache == nullptr
          ? attention(context, q, k, qkv[2], pass.spans, options)
          : cached_attention(
                context, q, k, qkv[2], pass.cache->keys(layer), pass.cache->values(layer), pass.spans, options);
  return row_parallel(context, mixed, o_proj);
}

Tensor GatedMlp::forward(Context& context, const Tensor& x) const {
  std::array<LinearParameters, 2> projections = {gate_proj.parameters(), up_proj.parameters()};
  std::vector<Tensor> gate_up = linear_group(context, x, projections, x.dtype());
  Tensor gated = gated_activation(context, gate_up[0], gate_up[1], activation);
  return row_parallel(context, gated, down_proj);
}

}  // namespace weft
