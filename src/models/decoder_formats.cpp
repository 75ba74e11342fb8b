#include "models/decoder_formats.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "models/model_config.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

/// bert4keras3's norms, whatever its config says.
constexpr double kSeedEps = 1e-6;

/// GGUF files hold it in f32.
double eps_of(const DecoderConfig& config) {
  return as_written(static_cast<float>(config.norm.eps));
}

/// What both kinds of config.json spell alike.
Json common_config(const DecoderConfig& config) {
  const ModelInfo& info = config.info;
  Json json = {{"model_type", info.family},
               {"vocab_size", info.vocab_size},
               {"hidden_size", info.hidden_size},
               {"intermediate_size", info.intermediate_size},
               {"num_hidden_layers", info.num_layers},
               {"max_position_embeddings", info.max_positions},
               {"rms_norm_eps", eps_of(config)}};
  add_rope_scaling(config.rope, info.head_dim, json);
  if (!info.end_ids.empty()) json["eos_token_id"] = info.end_ids;
  return json;
}

Json huggingface_config(const DecoderConfig& config) {
  const ModelInfo& info = config.info;
  Json json = common_config(config);
  json.update({{"num_attention_heads", info.num_heads},
               {"num_key_value_heads", info.num_kv_heads},
               {"head_dim", info.head_dim},
               {"rope_theta", config.rope.theta},
               {"attention_dropout", as_written(config.attention_dropout)},
               {"tie_word_embeddings", info.tied_embedding}});
  return json;
}

/// In bert4keras3 `num_attention_heads` counts the key/value heads.
Json keras_config(const DecoderConfig& config) {
  const ModelInfo& info = config.info;
  Json json = common_config(config);
  json.update({{"query_head", info.num_heads},
               {"num_attention_heads", info.num_kv_heads},
               {"attention_head_size", info.head_dim},
               {"max_wavelength", config.rope.theta},
               {"use_bias", config.qkv_bias},
               {"o_bias", config.output_bias},
               {"share_emebding", info.tied_embedding},  // spelt so
               {"attention_probs_dropout_prob", as_written(config.attention_dropout)},
               {"dropout_rate", 0.0},
               {"type_vocab_size", 0}});
  double eps = eps_of(config);
  if (eps != kSeedEps)
    log::warning("bert4keras3 norms with {} whatever its config says; this model has {}", kSeedEps, eps);
  if (json.contains("rope_scaling")) log::warning("bert4keras3 does not know 'rope_scaling', which Weft reads");
  return json;
}

/// The keys of a GGUF file, which llama.cpp reads.
Json gguf_config(const DecoderConfig& config, const DecoderFormats& formats) {
  const ModelInfo& info = config.info;
  if (config.qkv_bias != formats.gguf_qkv_bias || config.output_bias || config.activation != formats.gguf_activation) {
    fail_input("GGUF files of {} have no place for this model's biases or activation", info.family);
  }
  const std::string& architecture = formats.gguf_architecture;
  Json json = {{"general.architecture", architecture}};
  auto add = [&](const char* key, Json value) { json[architecture + "." + key] = std::move(value); };
  add("vocab_size", info.vocab_size);
  add("context_length", info.max_positions);
  add("embedding_length", info.hidden_size);
  add("block_count", info.num_layers);
  add("feed_forward_length", info.intermediate_size);
  add("attention.head_count", info.num_heads);
  add("attention.head_count_kv", info.num_kv_heads);
  add("attention.key_length", info.head_dim);
  add("attention.value_length", info.head_dim);
  add("attention.layer_norm_rms_epsilon", config.norm.eps);
  add("rope.dimension_count", info.head_dim);
  add("rope.freq_base", config.rope.theta);
  if (config.rope.scaling == RopeSettings::Scaling::linear) {
    add("rope.scaling.type", "linear");
    add("rope.scaling.factor", config.rope.factor);
  }
  if (formats.add_gguf_keys) {
    formats.add_gguf_keys(config, json);
  } else if (widest_window(config) > 0) {
    fail_input("GGUF files of {} have no place for a sliding window", info.family);
  }
  return json;
}

/// GGUF holds Llama 3.1's scaling as what each frequency is divided by.
std::vector<ConstantTensor> gguf_constants(const DecoderConfig& config) {
  bool has_divisors = !config.rope.divisors.empty() || config.rope.scaling == RopeSettings::Scaling::llama3;
  if (!has_divisors) return {};
  int64_t head_dim = config.info.head_dim;
  std::vector<double> plain = rope_frequencies({.theta = config.rope.theta}, head_dim);
  std::vector<double> scaled = rope_frequencies(config.rope, head_dim);
  std::vector<float> divisors;
  for (size_t i = 0; i < plain.size(); ++i) divisors.push_back(static_cast<float>(plain[i] / scaled[i]));
  return {{"rope_freqs.weight", {head_dim / 2}, std::move(divisors)}};
}

}  // namespace

ModelDefinition decoder_definition(ModelFormat own, const DecoderConfig& config, const DecoderFormats& formats) {
  return {.info = config.info,
          .make = [config](TensorParallelPlace place) { return make_decoder(config, place); },
          .weights =
              [formats, family = config.info.family](ModelFormat format) {
                if (format == ModelFormat::tensorflow) fail_input("{} has no TensorFlow checkpoints", family);
                return format == ModelFormat::huggingface ? formats.huggingface
                       : format == ModelFormat::gguf      ? formats.gguf
                                                          : formats.keras_hdf5;
              },
          .config = [config, formats, own](ModelFormat format) -> std::string {
            if (format == ModelFormat::gguf) return gguf_config(config, formats).dump();
            if (format == own) return "";
            bool is_keras = format == ModelFormat::keras_hdf5;
            Json json = is_keras ? keras_config(config) : huggingface_config(config);
            const DecoderFormats::AddKeys& add = is_keras ? formats.add_keras_keys : formats.add_huggingface_keys;
            if (add) add(config, json);
            return json.dump();
          },
          .constants =
              [config](ModelFormat format) {
                return format == ModelFormat::gguf ? gguf_constants(config) : std::vector<ConstantTensor>{};
              },
          .decoder = config};
}

}  // namespace weft
