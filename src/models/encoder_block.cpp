#include "models/encoder_block.h"

#include "core/error.h"

namespace weft {
namespace {

/// Sites of dropout are numbered from here: site 0 is the embedding's.
constexpr uint32_t kSitesPerBlock = 2;

class PostNormBlock final : public EncoderBlock {
 public:
  PostNormBlock(ParameterStore& store,
                const EncoderConfig& config,
                std::shared_ptr<const RelativePositions> relative,
                int64_t layer)
      : relative_(std::move(relative)), residual_scores_(config.residual_scores) {
    std::string name = block_name(config, layer);
    int64_t hidden = config.info.hidden_size;
    int64_t heads = config.info.num_heads;
    auto split_heads = [&](const char* part, int64_t head_size) {
      return add_linear(store,
                        {.name = name + ".attention.self." + part,
                         .out_features = heads * head_size,
                         .in_features = hidden,
                         .shard = {ShardKind::heads, heads, heads},
                         .with_bias = config.has_bias});
    };
    attention_.query = split_heads("query", config.info.head_dim);
    attention_.key = split_heads("key", config.info.head_dim);
    attention_.value = split_heads("value", config.value_dim);
    attention_.output = add_linear(store,
                                   {.name = name + ".attention.output.dense",
                                    .out_features = hidden,
                                    .in_features = heads * config.value_dim,
                                    .shard = {ShardKind::head_columns, heads, heads},
                                    .with_bias = config.has_bias});
    attention_.options = attention_options(config, store.place());
    attention_.is_rotary = config.positions == AbsolutePositions::rotary;
    attention_norm_ = add_post_norm(store, config, name + ".attention.output.LayerNorm", hidden, config.eps);
    mlp_.up = add_linear(store,
                         {.name = name + ".intermediate.dense",
                          .out_features = config.info.intermediate_size,
                          .in_features = hidden,
                          .shard = {ShardKind::rows},
                          .with_bias = config.has_bias});
    mlp_.down = add_linear(store,
                           {.name = name + ".output.dense",
                            .out_features = hidden,
                            .in_features = config.info.intermediate_size,
                            .shard = {ShardKind::columns},
                            .with_bias = config.has_bias});
    mlp_.activation = config.activation;
    mlp_norm_ = add_post_norm(store, config, name + ".output.LayerNorm", hidden, config.eps);
    dropout_ = config.dropout;
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
      relative_->fill(context, shared, attention_, x.dtype(), tables);
    }
    const Tensor* previous = residual_scores_ && inputs.size() > next ? &inputs[next] : nullptr;
    EncoderAttention attention = attention_;
    attention.layer = layer;
    RelativeAttentionResult mixed = attention.forward(context, x, pass, tables.terms, previous, residual_scores_);
    auto site = 1 + kSitesPerBlock * static_cast<uint32_t>(layer);
    Tensor attended = BranchDropout{dropout_, site}.forward(context, mixed.out, pass.num_tokens);
    Tensor middle = attention_norm_.forward_add(context, attended, x, pass);
    Tensor branch = mlp_.forward(context, middle, pass.num_tokens);
    branch = BranchDropout{dropout_, site + 1}.forward(context, branch, pass.num_tokens);
    Tensor out = mlp_norm_.forward_add(context, branch, middle, pass);
    if (!residual_scores_) return {out};
    return {out, mixed.scores};
  }

  std::vector<Linear*> linears() override {
    return {&attention_.query, &attention_.key, &attention_.value, &attention_.output, &mlp_.up, &mlp_.down};
  }

 private:
  std::shared_ptr<const RelativePositions> relative_;
  bool residual_scores_;
  EncoderAttention attention_;
  PostNorm attention_norm_;
  PlainMlp mlp_;
  PostNorm mlp_norm_;
  float dropout_ = 0;
};

}  // namespace

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
