#include "models/decoder.h"

#include "core/error.h"
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

class Decoder final : public CausalLanguageModel {
 public:
  Decoder(const DecoderConfig& config, TensorParallelPlace place);

  const ModelInfo& info() const override { return config_.info; }
  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override;
  Tensor local_logits(Context& context, const Tensor& hidden) override;

 private:
  Block make_block(int64_t layer);
  SelfAttention make_attention(int64_t layer, const std::string& prefix);
  ForwardPass start(Context& context, const Batch& batch, KvCache* cache) const;
  void check_ids(const Batch& batch) const;

  DecoderConfig config_;
  VocabularyEmbedding embedding_;
  std::vector<Block> blocks_;
  RmsNorm final_norm_;
  Linear lm_head_;
};

Decoder::Decoder(const DecoderConfig& config, TensorParallelPlace place) : CausalLanguageModel(place), config_(config) {
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
  attention.layer = layer;
  return attention;
}

void Decoder::check_ids(const Batch& batch) const {
  for (int32_t id : batch.ids) {
    if (id < 0 || id >= config_.info.vocab_size) {
      fail_input("token id {} is outside the model's vocabulary of {}; is this the model's own tokenizer?",
                 id,
                 config_.info.vocab_size);
    }
  }
}

ForwardPass Decoder::start(Context& context, const Batch& batch, KvCache* cache) const {
  ForwardPass pass;
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

Tensor Decoder::hidden(Context& context, const Batch& batch, KvCache* cache) {
  check_ids(batch);
  ForwardPass pass = start(context, batch, cache);
  Tensor residual = embedding_.forward(context, batch.ids, config_.embedding_scale);
  context.observe("hidden/0", residual);
  Tensor branch;  // what the last block's feed-forward adds to the residual stream
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    Block& block = blocks_[layer];
    Tensor normed;
    if (branch) {
      ResidualNorm joined = block.attention_norm.forward_add(context, branch, residual);
      residual = joined.sum;
      normed = joined.normed;
      context.observe("hidden/" + std::to_string(layer), residual);
    } else {
      normed = block.attention_norm.forward(context, residual);
    }
    Tensor attended = block.attention.forward(context, copy_to_tp(context, normed), pass);
    if (config_.norm_after_branches) attended = block.attention_post_norm.forward(context, attended);
    ResidualNorm joined = block.mlp_norm.forward_add(context, attended, residual);
    residual = joined.sum;
    branch = block.mlp.forward(context, copy_to_tp(context, joined.normed));
    if (config_.norm_after_branches) branch = block.mlp_post_norm.forward(context, branch);
  }
  ResidualNorm last = final_norm_.forward_add(context, branch, residual);
  context.observe("hidden/" + std::to_string(blocks_.size()), last.sum);
  context.observe("final", last.normed);
  return last.normed;
}

Tensor Decoder::local_logits(Context& context, const Tensor& hidden) {
  LinearParameters head = lm_head_.parameters();
  DType dtype = hidden.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor logits = std::move(linear_group(context, copy_to_tp(context, hidden), {&head, 1}, dtype).front());
  if (config_.logit_soft_cap > 0) logits = soft_cap(context, logits, static_cast<float>(config_.logit_soft_cap));
  return logits;
}

}  // namespace

std::unique_ptr<CausalLanguageModel> make_decoder(const DecoderConfig& config, TensorParallelPlace place) {
  return std::make_unique<Decoder>(config, place);
}

}  // namespace weft
