// What the blocks and heads of encoders are built with.
#include <cmath>

#include "models/encoder.h"

namespace weft {

RelativeAttentionOptions attention_options(const EncoderConfig& config, TensorParallelPlace place) {
  HeadRange heads = kv_head_range(config.info.num_kv_heads, place);
  return {.num_heads = heads.end - heads.begin,
          .num_kv_heads = heads.end - heads.begin,
          .head_dim = config.info.head_dim,
          .value_dim = config.splits_value_dim ? config.value_dim / place.size : config.value_dim,
          .scale = static_cast<float>(
              1 / std::sqrt(config.attention_scale_divisor * static_cast<double>(config.info.head_dim))),
          .causal = config.info.attention == AttentionPattern::causal,
          .normalization = ScoreNormalization::softmax,
          .dropout = {.probability = config.attention_dropout,
                      .head_begin = heads.begin,
                      .global_heads = config.info.num_kv_heads}};
}

PostNorm add_post_norm(ParameterStore& store,
                       const EncoderConfig& config,
                       const std::string& name,
                       int64_t width,
                       double eps,
                       bool partial_gradient) {
  PostNorm norm{.eps = eps};
  if (!config.has_layer_norm) return norm;
  for (const Parameter** vector : {&norm.weight, &norm.bias}) {
    Parameter& parameter = store.add(name + (vector == &norm.weight ? ".weight" : ".bias"), {width});
    parameter.is_norm = true;
    parameter.partial_gradient = partial_gradient;
    *vector = &parameter;
  }
  const ConditionConfig& condition = config.info.condition;
  if (!condition.is_there()) return norm;
  auto dense = [&](const char* part, int64_t out_features, int64_t in_features) {
    Linear linear = add_linear(store,
                               {.name = name + ".condition." + part,
                                .out_features = out_features,
                                .in_features = in_features,
                                .shard = {},
                                .partial_gradient = partial_gradient});
    store.find(linear.weight->name)->is_task_head = condition.is_new;
    return linear;
  };
  auto conditional = std::make_shared<ConditionalNorm>();
  conditional->activation = condition.activation;
  int64_t inner = condition.hidden_width > 0 ? condition.hidden_width : condition.width;
  if (condition.hidden_width > 0) conditional->hidden_dense = dense("hidden_dense", inner, condition.width);
  conditional->weight_dense = dense("weight_dense", width, inner);
  conditional->bias_dense = dense("bias_dense", width, inner);
  // New ones change nothing at first.
  for (const Linear* one : {&conditional->weight_dense, &conditional->bias_dense}) {
    store.find(one->weight->name)->initial = {.deviation = 0};
  }
  norm.condition = std::move(conditional);
  return norm;
}

}  // namespace weft
