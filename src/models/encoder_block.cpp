#include "models/encoder_block.h"

#include "core/error.h"
#include "models/dropout_sites.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

class PostNormBlock final : public EncoderBlock {
 public:
  PostNormBlock(ParameterStore& store,
                const EncoderConfig& config,
                std::shared_ptr<const RelativePositions> relative,
                int64_t layer)
      : relative_(std::move(relative)),
        residual_scores_(config.residual_scores),
        sums_residual_scores_(config.sums_residual_scores),
        parts_(add_block_parts(store, config, layer)) {
    std::string name = block_name(config, layer);
    int64_t hidden = config.info.hidden_size;
    attention_norm_ = add_post_norm(store, config, name + ".attention.output.LayerNorm", hidden, config.eps);
    mlp_norm_ = add_post_norm(store, config, name + ".output.LayerNorm", hidden, config.eps);
  }

  std::vector<Tensor> forward(Context& context,
                              const std::vector<Tensor>& inputs,
                              const EncoderPass& pass,
                              int64_t layer) const override {
    const Tensor& x = inputs[0];
    size_t next = 1;
    RelativePositions::Tables tables;
    if (relative_ != nullptr) {
      Tensor shared = relative_->has_shared() ? inputs[next++] : Tensor{};
      relative_->fill(context, shared, parts_.attention, x.dtype(), tables);
    }
    const Tensor* previous = residual_scores_ && inputs.size() > next ? &inputs[next] : nullptr;
    RelativeAttentionResult mixed =
        parts_.attention_of(layer).forward(context, x, pass, tables.terms, previous, residual_scores_);
    Tensor attended = parts_.drop_attended(context, mixed.out, pass, layer);
    Tensor middle = attention_norm_.forward_add(context, attended, x, pass);
    Tensor branch = parts_.feed_forward(context, middle, pass, layer);
    Tensor out = mlp_norm_.forward_add(context, branch, middle, pass);
    if (!residual_scores_) return {out};
    if (previous == nullptr || sums_residual_scores_) return {out, mixed.scores};
    return {out, add(context, mixed.scores, scale(context, *previous, -1))};
  }

  std::vector<Linear*> linears() override { return parts_.linears(); }

 private:
  std::shared_ptr<const RelativePositions> relative_;
  bool residual_scores_;
  bool sums_residual_scores_;
  BlockParts parts_;
  PostNorm attention_norm_;
  PostNorm mlp_norm_;
};

}  // namespace

BlockParts add_block_parts(ParameterStore& store, const EncoderConfig& config, int64_t layer) {
  std::string name = block_name(config, layer);
  int64_t hidden = config.info.hidden_size;
  int64_t heads = config.info.num_heads;
  BlockParts parts;
  auto split_heads = [&](const char* part, int64_t head_size) {
    return add_linear(store,
                      {.name = name + ".attention.self." + part,
                       .out_features = heads * head_size,
                       .in_features = hidden,
                       .shard = {ShardKind::heads, heads, heads},
                       .with_bias = config.has_bias});
  };
  parts.attention.query = split_heads("query", config.info.head_dim);
  parts.attention.key = split_heads("key", config.info.head_dim);
  parts.attention.value = split_heads("value", config.value_dim);
  parts.attention.output = add_linear(store,
                                      {.name = name + ".attention.output.dense",
                                       .out_features = hidden,
                                       .in_features = heads * config.value_dim,
                                       .shard = {ShardKind::head_columns, heads, heads},
                                       .with_bias = config.has_bias});
  parts.attention.options = attention_options(config, store.place());
  parts.attention.is_rotary = config.positions == AbsolutePositions::rotary;
  parts.mlp.up = add_linear(store,
                            {.name = name + ".intermediate.dense",
                             .out_features = config.info.intermediate_size,
                             .in_features = hidden,
                             .shard = {ShardKind::rows},
                             .with_bias = config.has_bias});
  parts.mlp.down = add_linear(store,
                              {.name = name + ".output.dense",
                               .out_features = hidden,
                               .in_features = config.info.intermediate_size,
                               .shard = {ShardKind::columns},
                               .with_bias = config.has_bias});
  parts.mlp.activation = config.activation;
  parts.dropout = config.dropout;
  parts.drops_attended = config.drops_attended;
  return parts;
}

Tensor BlockParts::drop_attended(Context& context, const Tensor& x, const EncoderPass& pass, int64_t layer) const {
  return BranchDropout{drops_attended ? dropout : 0, block_dropout_site(layer, BlockDropout::attention)}.forward(
      context, x, pass.num_tokens);
}

EncoderAttention BlockParts::attention_of(int64_t layer) const {
  EncoderAttention numbered = attention;
  numbered.layer = layer;
  numbered.options.dropout.site = block_dropout_site(layer, BlockDropout::attention_weights);
  return numbered;
}

Tensor BlockParts::attend(Context& context, const Tensor& x, const EncoderPass& pass, int64_t layer) const {
  return drop_attended(context, attention_of(layer).forward(context, x, pass, {}, nullptr, false).out, pass, layer);
}

Tensor BlockParts::feed_forward(Context& context, const Tensor& x, const EncoderPass& pass, int64_t layer) const {
  Tensor branch = mlp.forward(context, x, pass.num_tokens);
  uint32_t site = block_dropout_site(layer, BlockDropout::feed_forward);
  return BranchDropout{dropout, site}.forward(context, branch, pass.num_tokens);
}

std::vector<Linear*> BlockParts::linears() {
  return {&attention.query, &attention.key, &attention.value, &attention.output, &mlp.up, &mlp.down};
}

std::string block_name(const EncoderConfig& config, int64_t layer) {
  std::string name = config.prefix + ".encoder.layer";
  return layer < 0 ? name : name + "." + std::to_string(layer);
}

std::unique_ptr<EncoderBlock> make_post_norm_block(ParameterStore& store,
                                                   const EncoderConfig& config,
                                                   std::shared_ptr<const RelativePositions> relative,
                                                   int64_t layer) {
  return std::make_unique<PostNormBlock>(store, config, std::move(relative), layer);
}

}  // namespace weft
