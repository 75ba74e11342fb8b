// Llama 3 and 3.1, Yi, Yi-1.5, SmolLM2: pre-norm decoder with RMS norm, rotary positions, grouped-query attention and a
// SiLU-gated feed-forward (Touvron et al., "LLaMA", 2023; Llama team, "The Llama 3 Herd of Models", 2024). Yi and
// SmolLM2 differ in sizes only.

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/decoder_config.h"
#include "models/decoder_formats.h"
#include "models/llama_weights.h"

namespace weft {
namespace {

DecoderConfig read_llama(const ModelSource& source) {
  DecoderConfig config = read_common(source, false);
  config.norm.round_before_weight = true;
  if (source.format == ModelFormat::huggingface) {
    if (source.config.boolean_or("mlp_bias", false))
      fail_input("{}: mlp_bias is not supported for Llama", source.config.path());
    config.qkv_bias = config.output_bias = source.config.boolean_or("attention_bias", false);
  }
  if (source.format != ModelFormat::gguf) {
    config.activation = parse_activation(source.config.string_or("hidden_act", "silu"));
  }
  // bert4keras3 norms with 1e-6 whatever the model was trained with; its configs do not hold the epsilon, and Llama 3's
  // is 1e-5.
  if (source.format == ModelFormat::keras_hdf5 && !source.compat && !source.config.has("rms_norm_eps"))
    config.norm.eps = 1e-5;
  return config;
}

WeightMap llama_gguf_weights() {
  WeightMap map = gguf_weights(true, false);
  map.rows.push_back({"model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"});
  return map;
}

void add_huggingface_keys(const DecoderConfig& config, nlohmann::ordered_json& keys) {
  keys["architectures"] = {"LlamaForCausalLM"};
  keys["hidden_act"] = activation_name(config.activation);
  keys["attention_bias"] = config.qkv_bias;
}

}  // namespace

Family llama_family() {
  return {.name = "llama",
          .huggingface_types = {"llama"},
          .seed_names = {"llama", "yi"},
          .gguf_architectures = {"llama"},
          .define = [](const ModelSource& source) {
            return decoder_definition(source.format,
                                      read_llama(source),
                                      {.huggingface = huggingface_weights(),
                                       .keras_hdf5 = llama_keras_weights(),
                                       .gguf = llama_gguf_weights(),
                                       .add_huggingface_keys = add_huggingface_keys,
                                       .add_keras_keys = add_llama_keras_keys,
                                       .gguf_architecture = "llama"});
          }};
}

}  // namespace weft
