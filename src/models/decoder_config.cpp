#include "models/decoder_config.h"

#include <cmath>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/rope_settings.h"

namespace weft {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kDefaultContext = 8192;

void read_heads(DecoderConfig& config,
                const ModelConfig& source,
                const char* heads_key,
                const char* kv_heads_key,
                const char* head_dim_key) {
  ModelInfo& info = config.info;
  info.num_heads = source.size(heads_key, kMaxHeads);
  info.num_kv_heads = source.size_or(kv_heads_key, info.num_heads, kMaxHeads);
  if (info.num_heads % info.num_kv_heads != 0) {
    fail_input("{}: {} query heads cannot share {} key/value heads; '{}' must divide '{}'",
               source.path(),
               info.num_heads,
               info.num_kv_heads,
               kv_heads_key,
               heads_key);
  }
  if (!source.has(head_dim_key) && info.hidden_size % info.num_heads != 0) {
    fail_input("{}: hidden size {} is no multiple of {} heads and '{}' is absent",
               source.path(),
               info.hidden_size,
               info.num_heads,
               head_dim_key);
  }
  info.head_dim = source.size_or(head_dim_key, info.hidden_size / info.num_heads, 1024);
  if (info.head_dim % 2 != 0)
    fail_input("{}: head size {} is odd; rotary positions need pairs", source.path(), info.head_dim);
}

void read_end_ids(ModelInfo& info, const ModelConfig& config, std::string_view key) {
  for (int64_t id : config.integers(key)) {
    if (id >= 0 && id < info.vocab_size) info.end_ids.push_back(static_cast<int32_t>(id));
  }
}

/// What both kinds of config.json spell alike.
void read_json_sizes(const ModelConfig& source, DecoderConfig& config) {
  ModelInfo& info = config.info;
  info.vocab_size = source.size("vocab_size");
  info.hidden_size = source.size("hidden_size");
  info.intermediate_size = source.size("intermediate_size");
  info.num_layers = source.size("num_hidden_layers", kMaxLayers);
  info.max_positions = source.size_or("max_position_embeddings", kDefaultContext, int64_t{1} << 30);
  config.norm.eps = source.number_or("rms_norm_eps", 1e-6, 0, 1);
}

DecoderConfig read_huggingface(const ModelConfig& source, bool tied_by_default) {
  DecoderConfig config;
  read_json_sizes(source, config);
  ModelInfo& info = config.info;
  info.tied_embedding = source.boolean_or("tie_word_embeddings", tied_by_default);
  read_heads(config, source, "num_attention_heads", "num_key_value_heads", "head_dim");
  config.attention_dropout = static_cast<float>(source.number_or("attention_dropout", 0, 0, 0.999));
  read_end_ids(info, source, "eos_token_id");
  config.rope = read_huggingface_rope(source);
  return config;
}

/// bert4keras3 names: num_attention_heads is the number of key/value heads when query_head is given.
DecoderConfig read_seed(const ModelSource& from, bool tied_by_default) {
  const ModelConfig& source = from.config;
  DecoderConfig config;
  read_json_sizes(source, config);
  ModelInfo& info = config.info;
  info.tied_embedding = source.boolean_or("share_emebding", tied_by_default);
  read_heads(config,
             source,
             source.has("query_head") ? "query_head" : "num_attention_heads",
             "num_attention_heads",
             "attention_head_size");
  config.attention_dropout = static_cast<float>(source.number_or("attention_probs_dropout_prob", 0, 0, 0.999));
  config.qkv_bias = source.boolean_or("use_bias", false);
  config.output_bias = source.boolean_or("o_bias", config.qkv_bias);
  config.rope = read_seed_rope(from);
  read_end_ids(info, source, "eos_token_id");
  return config;
}

DecoderConfig read_gguf(const ModelSource& from) {
  const ModelConfig& source = from.config;
  WEFT_ASSERT(from.reader != nullptr);
  DecoderConfig config;
  ModelInfo& info = config.info;
  const TensorInfo& table = from.reader->info("token_embd.weight");
  if (table.shape.rank() != 2)
    fail_input("{}: token_embd.weight is {}, expected a matrix", table.file, to_string(table.shape));
  info.vocab_size = table.shape[0];
  info.hidden_size = source.size(gguf_key(from, "embedding_length"));
  info.intermediate_size = source.size(gguf_key(from, "feed_forward_length"));
  info.num_layers = source.size(gguf_key(from, "block_count"), kMaxLayers);
  info.max_positions = source.size_or(gguf_key(from, "context_length"), kDefaultContext, int64_t{1} << 30);
  info.tied_embedding = from.reader->find("output.weight") == nullptr;
  read_heads(config,
             source,
             gguf_key(from, "attention.head_count").c_str(),
             gguf_key(from, "attention.head_count_kv").c_str(),
             gguf_key(from, "attention.key_length").c_str());
  read_end_ids(info, source, "tokenizer.ggml.eos_token_id");
  config.norm.eps = source.number_or(gguf_key(from, "attention.layer_norm_rms_epsilon"), 1e-6, 0, 1);
  config.rope = read_gguf_rope(from, info.head_dim);
  return config;
}

}  // namespace

std::string gguf_key(const ModelSource& source, std::string_view name) {
  return source.config.string_or("general.architecture", "llama") + "." + std::string(name);
}

DecoderConfig read_common(const ModelSource& source, bool tied_by_default) {
  DecoderConfig config = source.format == ModelFormat::huggingface ? read_huggingface(source.config, tied_by_default)
                         : source.format == ModelFormat::gguf      ? read_gguf(source)
                                                                   : read_seed(source, tied_by_default);
  config.info.family = source.family;
  config.inverse_frequency = rope_frequencies(config.rope, config.info.head_dim);
  config.attention_scale = 1 / std::sqrt(static_cast<double>(config.info.head_dim));
  return config;
}

WeightMap huggingface_weights() {
  WeightMap map;
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"})
    map.rows.push_back({name, name});
  for (const char* part : {"input_layernorm.weight",
                           "post_attention_layernorm.weight",
                           "pre_feedforward_layernorm.weight",
                           "post_feedforward_layernorm.weight",
                           "self_attn.q_proj.weight",
                           "self_attn.k_proj.weight",
                           "self_attn.v_proj.weight",
                           "self_attn.o_proj.weight",
                           "self_attn.q_proj.bias",
                           "self_attn.k_proj.bias",
                           "self_attn.v_proj.bias",
                           "self_attn.o_proj.bias",
                           "mlp.gate_proj.weight",
                           "mlp.up_proj.weight",
                           "mlp.down_proj.weight"}) {
    std::string name = "model.layers.{i}." + std::string(part);
    map.rows.push_back({name, name});
  }
  // A tied head may be stored again; old files keep the rotary buffers.
  map.ignored = {"lm_head.weight", "*.rotary_emb.inv_freq"};
  return map;
}

WeightMap gguf_weights(bool permuted, bool norm_plus_one) {
  WeightTransform rotary = permuted ? WeightTransform::rotary_permuted : WeightTransform::none;
  WeightTransform norm = norm_plus_one ? WeightTransform::minus_one : WeightTransform::none;
  WeightMap map;
  auto layer = [&](const char* ours, const char* theirs, WeightTransform transform = WeightTransform::none) {
    map.rows.push_back({"model.layers.{i}." + std::string(ours), "blk.{i}." + std::string(theirs), transform});
  };
  map.rows.push_back({"model.embed_tokens.weight", "token_embd.weight"});
  map.rows.push_back({"model.norm.weight", "output_norm.weight", norm});
  map.rows.push_back({"lm_head.weight", "output.weight"});
  layer("input_layernorm.weight", "attn_norm.weight", norm);
  layer("self_attn.q_proj.weight", "attn_q.weight", rotary);
  layer("self_attn.k_proj.weight", "attn_k.weight", rotary);
  layer("self_attn.v_proj.weight", "attn_v.weight");
  layer("self_attn.o_proj.weight", "attn_output.weight");
  layer("self_attn.q_proj.bias", "attn_q.bias", rotary);
  layer("self_attn.k_proj.bias", "attn_k.bias", rotary);
  layer("self_attn.v_proj.bias", "attn_v.bias");
  layer("mlp.gate_proj.weight", "ffn_gate.weight");
  layer("mlp.up_proj.weight", "ffn_up.weight");
  layer("mlp.down_proj.weight", "ffn_down.weight");
  map.ignored = {"rope_freqs.weight"};
  return map;
}

}  // namespace weft
