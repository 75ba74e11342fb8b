#include "models/decoder.h"

#include <algorithm>

#include "core/error.h"
#include "models/batch_inputs.h"
#include "models/dropout_sites.h"
#include "models/family.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/rope.h"

namespace weft {
namespace {

struct Block {
  RmsNorm attention_norm;
  SelfAttention attention;
  RmsNorm attention_post_norm;  // used with norm_after_branches
  RmsNorm mlp_norm;
  GatedMlp mlp;
  RmsNorm mlp_post_norm;
};

class Decoder final : public LanguageModel {
 public:
  Decoder(const DecoderConfig& config, TensorParallelPlace place);

  const ModelInfo& info() const override { return config_.info; }
  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override;
  LanguageModelHead head() const override {
    return {.weight = lm_head_.weight, .soft_cap = static_cast<float>(config_.logit_soft_cap)};
  }
  std::vector<NamedLinear> linears() override;

 private:
  Block make_block(int64_t layer);
  SelfAttention make_attention(int64_t layer, const std::string& prefix);
  ForwardPass start(Context& context, const Batch& batch, KvCache* cache) const;
  Tensor embed(Context& context, const Batch& batch) const;
  bool leaves_last_norm(const Context& context) const;
  ResidualNorm join(Context& context, const RmsNorm& norm, size_t layer, const std::vector<Tensor>& stream) const;
  std::vector<Tensor> run_layer(Context& context,
                                size_t layer,
                                const std::vector<Tensor>& inputs,
                                const ForwardPass& pass) const;

  DecoderConfig config_;
  VocabularyEmbedding embedding_;
  std::vector<Block> blocks_;
  RmsNorm final_norm_;
  Linear lm_head_;
};

Decoder::Decoder(const DecoderConfig& config, TensorParallelPlace place) : LanguageModel(place), config_(config) {
  const ModelInfo& info = config_.info;
  embedding_table_ = &parameters_.add(
      "model.embed_tokens.weight", {info.vocab_size, info.hidden_size}, {ShardKind::vocabulary}, info.tied_embedding);
  embedding_.table = embedding_table_;
  for (int64_t layer = 0; layer < info.num_layers; ++layer) {
    parameters_.set_block(layer);
    blocks_.push_back(make_block(layer));
  }
  parameters_.set_block(kOuterBlock);
  final_norm_ = add_rms_norm_layer(parameters_, "model.norm", info.hidden_size, config_.norm);
  if (info.tied_embedding) {
    lm_head_.weight = embedding_.table;
  } else {
    lm_head_ = add_linear(parameters_,
                          {.name = "lm_head",
                           .out_features = info.vocab_size,
                           .in_features = info.hidden_size,
                           .shard = {ShardKind::vocabulary}});
  }
}

Block Decoder::make_block(int64_t layer) {
  const ModelInfo& info = config_.info;
  std::string prefix = "model.layers." + std::to_string(layer) + ".";
  auto norm = [&](const char* name) {
    return add_rms_norm_layer(parameters_, prefix + name, info.hidden_size, config_.norm);
  };
  auto projection = [&](const char* name, int64_t out_features, int64_t in_features, ShardKind shard) {
    return add_linear(
        parameters_,
        {.name = prefix + name, .out_features = out_features, .in_features = in_features, .shard = {shard}});
  };
  Block block;
  block.attention_norm = norm("input_layernorm");
  block.attention = make_attention(layer, prefix + "self_attn.");
  if (config_.norm_after_branches) {
    block.attention_post_norm = norm("post_attention_layernorm");
    block.mlp_norm = norm("pre_feedforward_layernorm");
    block.mlp_post_norm = norm("post_feedforward_layernorm");
  } else {
    block.mlp_norm = norm("post_attention_layernorm");
  }
  block.mlp.gate_proj = projection("mlp.gate_proj", info.intermediate_size, info.hidden_size, ShardKind::rows);
  block.mlp.up_proj = projection("mlp.up_proj", info.intermediate_size, info.hidden_size, ShardKind::rows);
  block.mlp.down_proj = projection("mlp.down_proj", info.hidden_size, info.intermediate_size, ShardKind::columns);
  block.mlp.activation = config_.activation;
  return block;
}

SelfAttention Decoder::make_attention(int64_t layer, const std::string& prefix) {
  const ModelInfo& info = config_.info;
  auto heads = [&](const char* name, int64_t num_heads, ShardKind kind) {
    return add_linear(parameters_,
                      {.name = prefix + name,
                       .out_features = num_heads * info.head_dim,
                       .in_features = info.hidden_size,
                       .shard = {kind, num_heads, info.num_kv_heads},
                       .with_bias = config_.qkv_bias});
  };
  SelfAttention attention;
  attention.q_proj = heads("q_proj", info.num_heads, ShardKind::heads);
  attention.k_proj = heads("k_proj", info.num_kv_heads, ShardKind::kv_heads);
  attention.v_proj = heads("v_proj", info.num_kv_heads, ShardKind::kv_heads);
  attention.o_proj = add_linear(parameters_,
                                {.name = prefix + "o_proj",
                                 .out_features = info.hidden_size,
                                 .in_features = info.num_heads * info.head_dim,
                                 .shard = {ShardKind::head_columns, info.num_heads, info.num_kv_heads},
                                 .with_bias = config_.output_bias});
  attention.options.head_dim = info.head_dim;
  attention.options.mask = {.scale = static_cast<float>(config_.attention_scale),
                            .soft_cap = static_cast<float>(config_.attention_soft_cap),
                            .window = config_.windows.empty() ? 0 : config_.windows[static_cast<size_t>(layer)]};
  attention.options.dropout = {
      .probability = config_.attention_dropout,
      .site = block_dropout_site(layer, BlockDropout::attention_weights),
      .head_begin = query_head_range(info.num_heads, info.num_kv_heads, parameters_.place()).begin,
      .global_heads = info.num_heads};
  attention.layer = layer;
  return attention;
}

ForwardPass Decoder::start(Context& context, const Batch& batch, KvCache* cache) const {
  ForwardPass pass;
  pass.num_tokens = batch.num_tokens();
  pass.cache = cache;
  std::vector<int32_t> positions;
  positions.reserve(batch.ids.size());
  for (const BatchSequence& sequence : batch.sequences) {
    pass.spans.push_back(
        {.begin = sequence.begin, .length = sequence.length, .past = sequence.past, .slot = sequence.slot});
    for (int64_t i = 0; i < sequence.length; ++i) positions.push_back(static_cast<int32_t>(sequence.past + i));
  }
  pass.rope_table = rope_table(context, positions, config_.inverse_frequency, embedding_.table->value.dtype());
  return pass;
}

Tensor Decoder::embed(Context& context, const Batch& batch) const {
  WEFT_ASSERT(!batch.embedding_offset ||
              batch.embedding_offset.shape() == (Shape{batch.num_tokens(), config_.info.hidden_size}));
  return add_embedding_offset(context, embedding_.forward(context, batch.ids, config_.embedding_scale), batch);
}

/// The norm after a block's feed-forward is left to the block after it, whose first norm it is fused with; not where
/// blocks are units of their own, with weights that may be elsewhere by then.
bool Decoder::leaves_last_norm(const Context& context) const {
  return config_.norm_after_branches && context.blocks == nullptr;
}

/// `norm` of the residual stream and of what block `layer` gave for it.
ResidualNorm Decoder::join(Context& context,
                           const RmsNorm& norm,
                           size_t layer,
                           const std::vector<Tensor>& stream) const {
  if (!leaves_last_norm(context)) return norm.forward_add(context, stream[1], stream[0]);
  return norm.forward_add_normed(context, stream[1], blocks_[layer].mlp_post_norm, stream[0]);
}

/// From {residual stream} or {residual stream, what the last block's feed-forward adds to it} to {residual stream, what
/// this block's adds}.
std::vector<Tensor> Decoder::run_layer(Context& context,
                                       size_t layer,
                                       const std::vector<Tensor>& inputs,
                                       const ForwardPass& pass) const {
  const Block& block = blocks_[layer];
  ResidualNorm start = inputs.size() == 1 ? block.attention_norm.forward_pass(context, inputs[0])
                                          : join(context, block.attention_norm, layer - 1, inputs);
  if (layer > 0) context.observe("hidden/" + std::to_string(layer), start.sum);
  Tensor attended = block.attention.forward(context, start.normed, pass);
  ResidualNorm middle = config_.norm_after_branches
                            ? block.mlp_norm.forward_add_normed(context, attended, block.attention_post_norm, start.sum)
                            : block.mlp_norm.forward_add(context, attended, start.sum);
  Tensor branch = block.mlp.forward(context, middle.normed, pass);
  bool norms_branch = config_.norm_after_branches && !leaves_last_norm(context);
  return {middle.sum, norms_branch ? block.mlp_post_norm.forward(context, branch) : branch};
}

Tensor Decoder::hidden(Context& context, const Batch& batch, KvCache* cache) {
  check_token_ids(batch.ids, config_.info.vocab_size);
  auto pass = std::make_shared<const ForwardPass>(start(context, batch, cache));
  std::vector<Tensor> stream = {embed(context, batch)};
  context.observe("hidden/0", stream[0]);
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    auto block = static_cast<int64_t>(layer);
    // A block that is run again keeps its input: one tensor instead of two.
    bool is_kept = context.blocks != nullptr && context.blocks->recompute(block) == Recompute::block;
    if (is_kept && stream.size() == 2) stream = {add(context, stream[1], stream[0])};
    stream = run_block(context, block, stream, [this, layer, pass](Context& running, const std::vector<Tensor>& in) {
      return run_layer(running, layer, in, *pass);
    });
  }
  ResidualNorm last = join(context, final_norm_, blocks_.size() - 1, stream);
  context.observe("hidden/" + std::to_string(blocks_.size()), last.sum);
  context.observe("final", last.normed);
  return enter_tensor_parallel(context, last.normed, batch.num_tokens());
}

std::vector<NamedLinear> Decoder::linears() {
  std::vector<NamedLinear> result;
  for (Block& block : blocks_) {
    for (Linear* linear : {&block.attention.q_proj,
                           &block.attention.k_proj,
                           &block.attention.v_proj,
                           &block.attention.o_proj,
                           &block.mlp.gate_proj,
                           &block.mlp.up_proj,
                           &block.mlp.down_proj}) {
      result.push_back(named_linear(*linear));
    }
  }
  return result;
}

}  // namespace

int64_t widest_window(const DecoderConfig& config) {
  return config.windows.empty() ? 0 : *std::max_element(config.windows.begin(), config.windows.end());
}

std::unique_ptr<LanguageModel> make_decoder(const DecoderConfig& config, TensorParallelPlace place) {
  return std::make_unique<Decoder>(config, place);
}

}  // namespace weft
