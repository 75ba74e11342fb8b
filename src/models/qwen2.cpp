// Qwen1.5 and Qwen2: Llama's decoder with biases on q, k and v, and optionally a sliding window in the upper layers
// (Yang et al., "Qwen2 Technical Report", 2024).

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/decoder_config.h"
#include "models/decoder_formats.h"
#include "models/llama_weights.h"

namespace weft {
namespace {

std::vector<int64_t> read_windows(const ModelConfig& config, int64_t num_layers) {
  if (!config.boolean_or("use_sliding_window", false) || !config.has("sliding_window")) return {};
  int64_t window = config.size("sliding_window", int64_t{1} << 30);
  int64_t first = config.size_or("max_window_layers", num_layers);
  std::vector<int64_t> windows;
  for (int64_t layer = 0; layer < num_layers; ++layer) windows.push_back(layer >= first ? window : 0);
  return windows;
}

DecoderConfig read_qwen2(const ModelSource& source) {
  DecoderConfig config = read_common(source, false);
  config.norm.round_before_weight = true;
  if (source.format != ModelFormat::keras_hdf5) config.qkv_bias = true;
  if (source.format != ModelFormat::gguf) {
    config.activation = parse_activation(source.config.string_or("hidden_act", "silu"));
  }
  if (source.format == ModelFormat::huggingface) {
    config.windows = read_windows(source.config, config.info.num_layers);
  }
  return config;
}

WeightMap qwen2_gguf_weights() {
  WeightMap map = gguf_weights(false, false);
  map.rows.push_back({"model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight"});
  return map;
}

void add_huggingface_keys(const DecoderConfig& config, nlohmann::ordered_json& keys) {
  keys["architectures"] = {"Qwen2ForCausalLM"};
  keys["hidden_act"] = activation_name(config.activation);
}

}  // namespace

Family qwen2_family() {
  return {.name = "qwen2",
          .huggingface_types = {"qwen2"},
          .seed_names = {"qwen"},
          .gguf_architectures = {"qwen2"},
          .define = [](const ModelSource& source) {
            return decoder_definition(source.format,
                                      read_qwen2(source),
                                      {.huggingface = huggingface_weights(),
                                       .keras_hdf5 = llama_keras_weights(),
                                       .gguf = qwen2_gguf_weights(),
                                       .add_huggingface_keys = add_huggingface_keys,
                                       .add_keras_keys = add_llama_keras_keys,
                                       .gguf_architecture = "qwen2",
                                       .gguf_qkv_bias = true});
          }};
}

}  // namespace weft
