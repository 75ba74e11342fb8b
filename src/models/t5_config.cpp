#include "models/t5_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/log.h"
#include "models/model_config.h"
#include "ops/activation.h"

namespace weft {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
// What weft convert writes of MisakaT5, whose name alone says it in bert4keras3.
constexpr const char* kPositionsKey = "position_embedding_type";
constexpr const char* kRotary = "rotary";

bool has_any(const CheckpointReader& reader, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return reader.find(name) != nullptr; });
}

/// What the checkpoint holds of encoder, decoder and output layer; without one, what the user's name says.
struct Halves {
  bool encoder = true, decoder = true, output_matrix = false;
};

Halves find_halves(const ModelSource& source) {
  Halves halves;
  bool wants_encoder = source.encoder_alone || source.alias.ends_with("_encoder");
  bool wants_decoder = source.alias.ends_with("_decoder");
  if (wants_encoder && wants_decoder) fail_input("{} is a decoder alone; an encoder is needed here", source.alias);
  halves.encoder = !wants_decoder;
  halves.decoder = !wants_encoder;
  if (source.reader == nullptr) {
    halves.output_matrix = !source.config.boolean_or("tie_word_embeddings", true);
    return halves;
  }
  const CheckpointReader& reader = *source.reader;
  switch (source.format) {
    case ModelFormat::tensorflow:
      halves.output_matrix = has_any(reader, {"decoder/logits/kernel"});
      break;
    case ModelFormat::keras_hdf5: {
      // Dense layers otherwise only map a smaller embedding: at the start of each stack and before the output.
      int64_t hidden = source.config.size(source.config.has("d_model") ? "d_model" : "hidden_size");
      bool has_mapping = source.config.size_or("embedding_size", hidden) != hidden;
      int64_t mappings = has_mapping ? 1 + (halves.encoder ? 1 : 0) + (halves.decoder ? 1 : 0) : 0;
      int64_t dense = 0;
      while (reader.find("layers/dense" + (dense == 0 ? "" : "_" + std::to_string(dense)) + "/vars/0") != nullptr) {
        ++dense;
      }
      halves.output_matrix = halves.decoder && dense > mappings;
      break;
    }
    default:
      halves.decoder = halves.decoder && has_any(reader, {"decoder.final_layer_norm.weight"});
      halves.encoder = halves.encoder && has_any(reader, {"encoder.final_layer_norm.weight"});
      halves.output_matrix = has_any(reader, {"lm_head.weight"});
  }
  return halves;
}

void read_sizes(const ModelSource& source, EncoderDecoderConfig& config) {
  const ModelConfig& from = source.config;
  auto key = [&](const char* huggingface, const char* seed) { return from.has(huggingface) ? huggingface : seed; };
  ModelInfo& info = config.info;
  info.vocab_size = from.size("vocab_size");
  info.hidden_size = from.size(key("d_model", "hidden_size"), 1 << 20);
  info.intermediate_size = from.size(key("d_ff", "intermediate_size"));
  info.num_heads = info.num_kv_heads = from.size(key("num_heads", "num_attention_heads"), kMaxHeads);
  info.head_dim = from.size_or(key("d_kv", "attention_head_size"), info.hidden_size / info.num_heads, 512);
  if (info.head_dim < 1) fail_input("{}: heads of size 0", from.path());
  config.num_encoder_layers = from.size(key("num_layers", "num_hidden_layers"), kMaxLayers);
  config.num_decoder_layers = from.size_or("num_decoder_layers", config.num_encoder_layers, kMaxLayers);
  config.embedding_size = from.size_or("embedding_size", info.hidden_size, 1 << 20);
  config.num_buckets = from.size_or("relative_attention_num_buckets", 32, 1 << 16);
  config.max_distance = from.size_or("relative_attention_max_distance", 128, 1 << 20);
  if (config.num_buckets < 4 || config.num_buckets % 2 != 0 || config.max_distance <= config.num_buckets / 2) {
    fail_input("{}: {} buckets do not fit distances up to {}; expected an even number from 4 and at most twice less",
               from.path(),
               config.num_buckets,
               config.max_distance);
  }
  config.eps = from.number_or("layer_norm_epsilon", 1e-6, 0, 1);
  auto probability = [&](const char* name) { return static_cast<float>(from.number_or(name, 0, 0, 0.999)); };
  config.dropout = probability(from.has("hidden_dropout_prob") ? "hidden_dropout_prob" : "dropout_rate");
  // transformers has one probability for everything.
  config.attention_dropout =
      from.has("d_model")
          ? config.dropout
          : probability(from.has("attention_dropout_rate") ? "attention_dropout_rate" : "attention_probs_dropout_prob");
}

/// "gated-gelu" and "relu" of transformers, whose gated gelu is the tanh form; ["gelu", "linear"] and "relu" of
/// bert4keras3.
void read_feed_forward(const ModelSource& source, bool has_erf_gelu, EncoderDecoderConfig& config) {
  const ModelConfig& from = source.config;
  std::string name;
  if (from.has("feed_forward_proj")) {
    name = from.string_or("feed_forward_proj", "relu");
    config.is_gated = name.starts_with("gated-");
    if (config.is_gated) name = name.substr(std::string_view("gated-").size());
    if (config.is_gated && name == "gelu") name = from.string_or("dense_act_fn", "gelu_new");
  } else {
    std::vector<std::string> names = from.strings("hidden_act");
    if (names.empty()) names = {"relu"};
    config.is_gated = names.size() > 1;
    if (names.size() > 2 || (config.is_gated && names[1] != "linear")) {
      fail_input("{}: 'hidden_act' must be one activation, or one and \"linear\"", from.path());
    }
    name = names[0];
    if (name == "gelu" && config.is_gated && !has_erf_gelu) name = "gelu_tanh";
  }
  config.activation = parse_activation(name);
}

/// Whether what the decoder makes is scaled before the output layer. transformers 5 says so itself, version 4 by
/// whether the output layer is the embedding.
bool scales_output(const ModelConfig& from, bool is_tied) {
  if (from.has("logit_scale")) return from.boolean_or("logit_scale", true);
  return from.boolean_or("scale_decoder_outputs", is_tied && from.boolean_or("tie_word_embeddings", true));
}

using Json = nlohmann::ordered_json;

Json seed_activation(const EncoderDecoderConfig& config) {
  std::string name = seed_activation_name(config.activation);
  return config.is_gated ? Json{name, "linear"} : Json(name);
}

Json seed_config(const EncoderDecoderConfig& config) {
  const ModelInfo& info = config.info;
  int64_t encoders = config.num_encoder_layers, decoders = config.num_decoder_layers;
  Json json = {{"vocab_size", info.vocab_size},
               {"hidden_size", info.hidden_size},
               {"num_hidden_layers", encoders > 0 ? encoders : decoders},
               {"num_attention_heads", info.num_heads},
               {"attention_head_size", info.head_dim},
               {"intermediate_size", info.intermediate_size},
               {"hidden_act", seed_activation(config)},
               {"hidden_dropout_prob", as_written(config.dropout)},
               {"attention_probs_dropout_prob", as_written(config.attention_dropout)},
               {"cross_position_bias", config.has_cross_bias ? 1 : 0},
               {"logit_scale", config.output_scale == 1 ? 0 : 1}};
  if (config.embedding_size != info.hidden_size) json["embedding_size"] = config.embedding_size;
  // What bert4keras3 has no keys for, where it is not what it takes for granted.
  const EncoderDecoderConfig usual;
  if (config.num_buckets != usual.num_buckets) json["relative_attention_num_buckets"] = config.num_buckets;
  if (config.max_distance != usual.max_distance) json["relative_attention_max_distance"] = config.max_distance;
  if (config.eps != usual.eps) json["layer_norm_epsilon"] = config.eps;
  if (encoders > 0 && decoders > 0 && decoders != encoders) json["num_decoder_layers"] = decoders;
  if (config.is_rotary) json[kPositionsKey] = kRotary;
  return json;
}

/// "gated-gelu" means the tanh form, whatever else the config says.
std::string huggingface_feed_forward(const EncoderDecoderConfig& config) {
  std::string name(activation_name(config.activation));
  if (config.activation == Activation::gelu_erf) name = config.is_gated ? "gelu_python" : "gelu";
  if (config.activation == Activation::gelu_tanh) name = config.is_gated ? "gelu" : "gelu_new";
  return (config.is_gated ? "gated-" : "") + name;
}

Json huggingface_config(const EncoderDecoderConfig& config) {
  const ModelInfo& info = config.info;
  std::string prefix = config.has_bias_per_layer ? "UMT5" : "T5";
  Json json = {{"architectures", {prefix + (info.is_encoder ? "EncoderModel" : "ForConditionalGeneration")}},
               {"model_type", config.has_bias_per_layer ? "umt5" : "t5"},
               {"vocab_size", info.vocab_size},
               {"d_model", info.hidden_size},
               {"d_kv", info.head_dim},
               {"d_ff", info.intermediate_size},
               {"num_layers", config.num_encoder_layers > 0 ? config.num_encoder_layers : info.num_layers},
               {"num_decoder_layers", config.num_decoder_layers > 0 ? config.num_decoder_layers : info.num_layers},
               {"num_heads", info.num_heads},
               {"relative_attention_num_buckets", config.num_buckets},
               {"relative_attention_max_distance", config.max_distance},
               {"dropout_rate", as_written(config.dropout)},
               {"layer_norm_epsilon", config.eps},
               {"feed_forward_proj", huggingface_feed_forward(config)},
               {"is_encoder_decoder", !info.is_encoder},
               {"tie_word_embeddings", info.tied_embedding},
               {"scale_decoder_outputs", config.output_scale != 1},
               {"decoder_start_token_id", info.start_id},
               {"pad_token_id", 0},
               {"eos_token_id", info.end_ids.empty() ? 1 : info.end_ids.front()}};
  if (config.has_cross_bias) {
    json["cross_position_bias"] = true;
    log::warning(
        "the decoder's table of positions serves cross-attention too, which Weft reads from the config "
        "('cross_position_bias') and transformers does not know");
  }
  if (config.is_rotary) {
    json[kPositionsKey] = kRotary;
    log::warning("positions are rotary, which Weft reads from the config ('{}') and transformers does not know",
                 kPositionsKey);
  }
  if (config.embedding_size != info.hidden_size) {
    json["embedding_size"] = config.embedding_size;
    log::warning("the embedding is narrower than the model ('embedding_size'), which transformers does not know");
  }
  return json;
}

}  // namespace

EncoderDecoderConfig read_t5(const ModelSource& source, bool has_bias_per_layer) {
  const ModelConfig& from = source.config;
  EncoderDecoderConfig config;
  config.info.family = source.family;
  read_sizes(source, config);
  config.has_bias_per_layer = has_bias_per_layer;
  Halves halves = find_halves(source);
  if (!halves.encoder && !halves.decoder) {
    fail_input("{}: the checkpoint does not hold the half of {} that is asked for", from.path(), source.family);
  }
  if (!halves.encoder) config.num_encoder_layers = 0;
  if (!halves.decoder) config.num_decoder_layers = 0;
  ModelInfo& info = config.info;
  info.num_layers = halves.decoder ? config.num_decoder_layers : config.num_encoder_layers;
  info.has_source = halves.decoder;
  info.is_encoder = !halves.decoder;
  info.attention = halves.decoder ? AttentionPattern::causal : AttentionPattern::bidirectional;
  info.tied_embedding = !halves.output_matrix;
  // bert4keras3 and what was trained with it (T5-PEGASUS) have a bias in cross-attention, scaled outputs and erf's
  // gelu.
  config.is_rotary = source.alias == "misakat5" || from.string_or(kPositionsKey, "") == kRotary;
  bool is_seeds_own = source.compat || source.alias == "t5_pegasus" || config.is_rotary;
  config.has_cross_bias = !config.is_rotary && from.boolean_or("cross_position_bias", is_seeds_own);
  if (config.is_rotary && config.info.head_dim % 2 != 0) {
    fail_input("{}: head size {} is odd; rotary positions need pairs", from.path(), config.info.head_dim);
  }
  config.has_cached_cross_bias = config.has_cross_bias && !source.compat;
  info.imitates_seed_cache = source.compat;
  bool is_scaled = is_seeds_own && !from.has("d_model") ? from.boolean_or("logit_scale", true)
                                                        : scales_output(from, info.tied_embedding);
  if (is_scaled) config.output_scale = 1 / std::sqrt(static_cast<double>(info.hidden_size));
  read_feed_forward(source, is_seeds_own, config);
  bool asks_for_hidden = !from.is_string("with_lm") && !from.boolean_or("with_lm", true);
  info.has_language_model_head = halves.decoder && !asks_for_hidden;
  if (!info.has_language_model_head) info.tied_embedding = true;
  info.start_id = static_cast<int32_t>(from.find_integer("decoder_start_token_id").value_or(0));
  if (info.start_id < 0 || info.start_id >= info.vocab_size) {
    fail_input("{}: 'decoder_start_token_id' is {}, expected 0 to {}", from.path(), info.start_id, info.vocab_size - 1);
  }
  for (int64_t id : from.integers("eos_token_id")) {
    if (id >= 0 && id < info.vocab_size) info.end_ids.push_back(static_cast<int32_t>(id));
  }
  return config;
}

std::string t5_config_json(const EncoderDecoderConfig& config, ModelFormat format) {
  return (format == ModelFormat::huggingface ? huggingface_config(config) : seed_config(config)).dump();
}

}  // namespace weft
