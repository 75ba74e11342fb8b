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
            if (format == own) return "";
            bool is_keras = format == ModelFormat::keras_hdf5;
            Json json = is_keras ? keras_config(config) : huggingface_config(config);
            const DecoderFormats::AddKeys& add = is_keras ? formats.add_keras_keys : formats.add_huggingface_keys;
            if (add) add(config, json);
            return json.dump();
          },
          .decoder = config};
}

}  // namespace weft
