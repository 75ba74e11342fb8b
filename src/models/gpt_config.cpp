#include "models/gpt_config.h"

#include <nlohmann/json.hpp>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/encoder_block.h"
#include "models/registry.h"
#include "ops/activation.h"

namespace weft {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;

void read_sizes(const ModelConfig& from, ModelInfo& info) {
  auto key = [&](const char* huggingface, const char* seed) { return from.has(huggingface) ? huggingface : seed; };
  info.vocab_size = from.size("vocab_size");
  info.hidden_size = from.size(key("n_embd", "hidden_size"), 1 << 20);
  info.num_layers = from.size(key("n_layer", "num_hidden_layers"), kMaxLayers);
  info.num_heads = info.num_kv_heads = from.size(key("n_head", "num_attention_heads"), kMaxHeads);
  if (info.hidden_size % info.num_heads != 0) {
    fail_input("{}: hidden size {} is no multiple of {} heads", from.path(), info.hidden_size, info.num_heads);
  }
  info.head_dim = info.hidden_size / info.num_heads;
  info.intermediate_size =
      from.size_or(key("n_inner", "intermediate_size"), 4 * info.hidden_size, ModelConfig::kMaxSize);
  const char* positions = from.has("max_position") ? "max_position" : "max_position_embeddings";
  info.max_positions = from.size_or(key("n_positions", positions), 512);
  for (int64_t id : from.integers("eos_token_id")) {
    if (id >= 0 && id < info.vocab_size) info.end_ids.push_back(static_cast<int32_t>(id));
  }
}

using Json = nlohmann::ordered_json;

Json seed_config(const EncoderConfig& config) {
  const ModelInfo& info = config.info;
  return {{"vocab_size", info.vocab_size},
          {"hidden_size", info.hidden_size},
          {"num_hidden_layers", info.num_layers},
          {"num_attention_heads", info.num_heads},
          {"intermediate_size", info.intermediate_size},
          {"max_position_embeddings", info.max_positions},
          {"type_vocab_size", info.num_segments},
          {"hidden_act", seed_activation_name(config.activation)},
          {"hidden_dropout_prob", as_written(config.dropout)},
          {"attention_probs_dropout_prob", as_written(config.attention_dropout)}};
}

Json huggingface_config(const EncoderConfig& config) {
  const ModelInfo& info = config.info;
  Json json = {{"vocab_size", info.vocab_size},
               {"n_embd", info.hidden_size},
               {"n_layer", info.num_layers},
               {"n_head", info.num_heads},
               {"n_inner", info.intermediate_size},
               {"n_positions", info.max_positions},
               {"resid_pdrop", as_written(config.dropout)},
               {"embd_pdrop", as_written(config.dropout)},
               {"attn_pdrop", as_written(config.attention_dropout)},
               {"layer_norm_epsilon", config.eps},
               {"tie_word_embeddings", true}};
  if (!info.end_ids.empty()) json["eos_token_id"] = info.end_ids.front();
  return json;
}

}  // namespace

EncoderConfig read_gpt(const ModelSource& source) {
  const ModelConfig& from = source.config;
  EncoderConfig config;
  ModelInfo& info = config.info;
  info.family = source.family;
  read_sizes(from, info);
  bool is_seed = !from.has("n_embd");
  info.num_segments =
      is_seed ? from.find_integer(from.has("segment_vocab_size") ? "segment_vocab_size" : "type_vocab_size").value_or(0)
              : 0;
  if (info.num_segments < 0 || info.num_segments > 65536) {
    fail_input("{}: {} segments, expected 0 to 65536", from.path(), info.num_segments);
  }
  info.attention = source.attention == AttentionPattern::prefix ? AttentionPattern::prefix : AttentionPattern::causal;
  info.tied_embedding = true;
  config.prefix = source.family;
  config.embedding_size = info.hidden_size;
  config.value_dim = info.head_dim;
  config.eps = from.number_or(from.has("layer_norm_epsilon") ? "layer_norm_epsilon" : "layer_norm_eps", 1e-5, 0, 1);
  config.embedding_eps = config.eps;
  config.has_head_transform = config.has_head_bias = false;
  config.segments_in_token_table = from.boolean_or("shared_segment_embeddings", false);
  auto probability = [&](const char* huggingface, const char* seed, const char* seed_too) {
    const char* key = from.has(huggingface) ? huggingface : from.has(seed) ? seed : seed_too;
    return static_cast<float>(from.number_or(key, 0, 0, 0.999));
  };
  config.dropout = probability("resid_pdrop", "hidden_dropout_prob", "dropout_rate");
  config.attention_dropout = probability("attn_pdrop", "attention_probs_dropout_prob", "attention_dropout_rate");
  return config;
}

std::vector<WeightRow> gpt_block_rows(const EncoderConfig& config,
                                      const GptBlockNames& names,
                                      const Spelling& dense,
                                      const Spelling& norm) {
  std::vector<WeightRow> rows;
  std::string ours = block_name(config, -1) + ".{i}.";
  bool is_fused = names.query == names.key;
  int64_t width = config.info.hidden_size;
  auto part = [&](int64_t number) { return is_fused ? RowPart{number * width, 3 * width} : RowPart{}; };
  add_pair(rows, ours + "attention.self.query", names.query, dense, part(0));
  add_pair(rows, ours + "attention.self.key", names.key, dense, part(1));
  add_pair(rows, ours + "attention.self.value", names.value, dense, part(2));
  add_pair(rows, ours + "attention.output.dense", names.output, dense);
  add_pair(rows, ours + "intermediate.dense", names.up, dense);
  add_pair(rows, ours + "output.dense", names.down, dense);
  add_pair(rows, ours + names.our_attention_norm, names.attention_norm, norm);
  add_pair(rows, ours + names.our_mlp_norm, names.mlp_norm, norm);
  return rows;
}

void add_gpt_tables(std::vector<WeightRow>& rows,
                    const EncoderConfig& config,
                    const std::string& tokens,
                    const std::string& positions,
                    const std::string& segments) {
  std::string ours = config.prefix + ".embeddings.";
  rows.push_back({ours + "word_embeddings.weight", tokens});
  rows.push_back({ours + "position_embeddings.weight", positions});
  if (!segments.empty()) rows.push_back({ours + "token_type_embeddings.weight", segments});
}

GptBlockNames keras_gpt_block() {
  std::string attention = "layers/multi_head_attention{#i}/";
  return {.query = attention + "q_dense",
          .key = attention + "k_dense",
          .value = attention + "v_dense",
          .output = attention + "o_dense",
          .up = "layers/feed_forward{#i}/i0_dense",
          .down = "layers/feed_forward{#i}/o_dense"};
}

namespace {

GptBlockNames tensorflow_gpt_block() {
  std::string block = "gpt/transformer/layer_{i}/";
  return {.query = block + "attention/self/query",
          .key = block + "attention/self/key",
          .value = block + "attention/self/value",
          .output = block + "attention/output/dense",
          .up = block + "intermediate/dense",
          .down = block + "output/dense"};
}

GptBlockNames huggingface_gpt_block(const std::string& prefix) {
  std::string block = prefix + "h.{i}.";
  std::string fused = block + "attn.c_attn";
  return {.query = fused,
          .key = fused,
          .value = fused,
          .output = block + "attn.c_proj",
          .up = block + "mlp.c_fc",
          .down = block + "mlp.c_proj",
          .attention_norm = block + "ln_1",
          .mlp_norm = block + "ln_2"};
}

std::string huggingface_gpt_prefix(const CheckpointReader* reader, const std::string& token_table) {
  bool is_bare = reader != nullptr && reader->find(token_table) != nullptr;
  return is_bare ? "" : "transformer.";
}

}  // namespace

std::string gpt_attention_norm(const std::string& side) {
  return "attention." + side + ".LayerNorm";
}

std::string gpt_mlp_norm(const std::string& side) {
  return side + ".LayerNorm";
}

namespace {

/// Throws Error(bad_input) for formats that neither exists in. `reader` (or null) decides whether transformers' names
/// have a prefix.
WeightMap gpt_weights(const EncoderConfig& config,
                      const GptNames& names,
                      ModelFormat format,
                      const CheckpointReader* reader) {
  WeightMap map;
  auto add = [&](GptBlockNames block, const Spelling& dense, const Spelling& norm, const std::string& final_norm) {
    block.our_attention_norm = gpt_attention_norm(names.norm_side);
    block.our_mlp_norm = gpt_mlp_norm(names.norm_side);
    map.rows = gpt_block_rows(config, block, dense, norm);
    if (config.has_final_norm) add_pair(map.rows, config.prefix + ".final_norm", final_norm, norm);
  };
  switch (format) {
    case ModelFormat::keras_hdf5: {
      GptBlockNames block = keras_gpt_block();
      block.attention_norm = "layers/layer_normalization{#2i}";
      block.mlp_norm = "layers/layer_normalization{#2i+1}";
      add(block, kKerasDense, kKerasNorm, "layers/layer_normalization{#2L}");
      add_gpt_tables(
          map.rows, config, "layers/embedding/vars/0", "layers/position_embedding/vars/0", "layers/embedding_1/vars/0");
      map.ignored = {"*seed_generator*"};
      return map;
    }
    case ModelFormat::tensorflow: {
      GptBlockNames block = tensorflow_gpt_block();
      std::string layer = "gpt/transformer/layer_{i}/";
      block.attention_norm = layer + "attention/" + names.norm_side + "/LayerNorm";
      block.mlp_norm = layer + names.norm_side + "/LayerNorm";
      add(block, kTensorflowDense, kTensorflowNorm, "gpt/output/LayerNorm");
      std::string tables = "gpt/embeddings/";
      add_gpt_tables(map.rows,
                     config,
                     tables + "word_embeddings",
                     tables + "position_embeddings",
                     tables + "token_type_embeddings");
      map.ignored = tensorflow_training_tensors();
      return map;
    }
    case ModelFormat::huggingface: {
      std::string prefix = huggingface_gpt_prefix(reader, names.tokens);
      GptBlockNames block = huggingface_gpt_block(prefix);
      add(block, kTorchConv1d, kTorch, prefix + "ln_f");
      add_gpt_tables(map.rows, config, prefix + names.tokens, prefix + names.positions);
      map.ignored = names.huggingface_ignored;
      return map;
    }
    default:
      fail_input("{} models do not exist as {} checkpoints", config.info.family, model_format_name(format));
  }
}

}  // namespace

ModelDefinition gpt_definition(const ModelSource& source,
                               const EncoderConfig& config,
                               const GptNames& names,
                               const nlohmann::ordered_json& huggingface) {
  auto weights = [config, names, own = source.format, reader = source.reader](ModelFormat format) {
    return gpt_weights(config, names, format, format == own ? reader : nullptr);
  };
  ModelDefinition definition = encoder_definition(source, config, weights, true);
  definition.config =
      [config, huggingface, has_huggingface_keys = source.config.has("n_embd")](ModelFormat format) -> std::string {
    bool wants_huggingface_keys = format == ModelFormat::huggingface;
    if (wants_huggingface_keys == has_huggingface_keys) return "";
    if (!wants_huggingface_keys) return seed_config(config).dump();
    Json json = huggingface_config(config);
    json.update(huggingface);
    return json.dump();
  };
  return definition;
}

}  // namespace weft
