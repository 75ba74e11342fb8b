#include "nn/encoder_layers.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/rope.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

bool shares_tokens(const Context& context) {
  return context.sequence_parallel && context.tensor_parallel != nullptr && context.tensor_parallel->size() > 1;
}

int64_t rows_per_rank(const Context& context, int64_t num_tokens) {
  int64_t size = context.tensor_parallel->size();
  return (num_tokens + size - 1) / size;
}

/// vector + dense(c), a row a sequence.
Tensor conditioned(Context& context, const Parameter& vector, const Linear& dense, const Tensor& condition) {
  return linear(context, condition, {&dense.weight->value, &vector.value});
}

struct NormTensors {
  Tensor weight, bias;
  bool is_grouped = false;
};

NormTensors norm_tensors(Context& context, const PostNorm& norm, const EncoderPass& pass) {
  if (norm.condition == nullptr) return {norm.weight->value, norm.bias->value, false};
  const ConditionalNorm& conditional = *norm.condition;
  WEFT_ASSERT(pass.condition.defined(), "a conditional norm without a condition");
  Tensor condition = pass.condition;
  if (conditional.hidden_dense.weight != nullptr) {
    condition = linear(context, condition, conditional.hidden_dense.parameters());
    condition = activation(context, condition, conditional.activation);
  }
  return {conditioned(context, *norm.weight, conditional.weight_dense, condition),
          conditioned(context, *norm.bias, conditional.bias_dense, condition),
          true};
}

}  // namespace

int64_t first_row_of_rank(const Context& context, int64_t num_tokens) {
  return shares_tokens(context) ? context.tensor_parallel->rank() * rows_per_rank(context, num_tokens) : 0;
}

std::vector<int32_t> rows_of_rank(const Context& context, std::vector<int32_t> values, int32_t fill) {
  if (!shares_tokens(context)) return values;
  auto rows = static_cast<size_t>(rows_per_rank(context, static_cast<int64_t>(values.size())));
  auto begin = static_cast<size_t>(first_row_of_rank(context, static_cast<int64_t>(values.size())));
  std::vector<int32_t> mine(rows, fill);
  for (size_t i = begin; i < std::min(values.size(), begin + rows); ++i) mine[i - begin] = values[i];
  return mine;
}

Tensor PostNorm::forward(Context& context, const Tensor& x, const EncoderPass& pass) const {
  if (weight == nullptr) return layer_norm(context, x, {.subtract_mean = false}, eps);
  NormTensors tensors = norm_tensors(context, *this, pass);
  LayerNormParameters parameters{.weight = &tensors.weight, .bias = &tensors.bias};
  if (tensors.is_grouped) parameters.groups = pass.sequence_of;
  return layer_norm(context, x, parameters, eps);
}

Tensor PostNorm::forward_add(Context& context, const Tensor& x, const Tensor& residual, const EncoderPass& pass) const {
  if (weight == nullptr) return add_layer_norm(context, x, residual, {.subtract_mean = false}, eps);
  NormTensors tensors = norm_tensors(context, *this, pass);
  LayerNormParameters parameters{.weight = &tensors.weight, .bias = &tensors.bias};
  if (tensors.is_grouped) parameters.groups = pass.sequence_of;
  return add_layer_norm(context, x, residual, parameters, eps);
}

Tensor BranchDropout::forward(Context& context, const Tensor& x, int64_t num_tokens) const {
  if (probability == 0) return x;
  return dropout(context,
                 x,
                 probability,
                 {.site = site, .global_width = x.size(1), .row_begin = first_row_of_rank(context, num_tokens)});
}

Tensor PlainMlp::forward(Context& context, const Tensor& x, int64_t num_tokens) const {
  Tensor whole = enter_tensor_parallel(context, x, num_tokens);
  if (up.adapter == nullptr) {
    return row_parallel(context, linear_activation(context, whole, up.parameters(), activation), down);
  }
  Tensor wide = column_parallel(context, whole, std::array{&up})[0];
  return row_parallel(context, weft::activation(context, wide, activation), down);
}

RelativeAttentionResult EncoderAttention::forward(Context& context,
                                                  const Tensor& x,
                                                  const EncoderPass& pass,
                                                  const RelativeTerms& terms,
                                                  const Tensor* previous_scores,
                                                  bool want_scores) const {
  Tensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  std::array<const Linear*, 3> projections = {&query, &key, &value};
  std::vector<Tensor> qkv = column_parallel(context, whole, projections);
  Tensor q = is_rotary ? rope(context, qkv[0], pass.rope_table, options.head_dim, true) : qkv[0];
  Tensor k = is_rotary ? rope(context, qkv[1], pass.rope_table, options.head_dim, true) : qkv[1];
  bool is_plain = terms.rows == nullptr && previous_scores == nullptr && !want_scores &&
                  options.head_dim == options.value_dim && options.normalization == ScoreNormalization::softmax;
  RelativeAttentionResult result;
  if (is_plain) {
    AttentionOptions plain{.head_dim = options.head_dim,
                           .mask = {.scale = options.scale, .causal = options.causal},
                           .dropout = options.dropout};
    result.out =
        pass.cache == nullptr
            ? attention(context, q, k, qkv[2], pass.spans, plain)
            : cached_attention(
                  context, q, k, qkv[2], pass.cache->keys(layer), pass.cache->values(layer), pass.spans, plain);
  } else {
    RelativeAttentionInputs inputs{.q = &q, .k = &k, .v = &qkv[2], .previous_scores = previous_scores};
    if (pass.cache == nullptr) {
      result = relative_attention(context, inputs, pass.spans, pass.positions, terms, options, want_scores);
    } else {
      result.out = cached_relative_attention(
          context, inputs, pass.cache->keys(layer), pass.cache->values(layer), pass.spans, terms, options);
    }
  }
  result.out = row_parallel(context, result.out, output);
  return result;
}

}  // namespace weft
