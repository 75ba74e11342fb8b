// Gemma and CodeGemma: embeddings times sqrt(hidden size), RMS norms by 1 + w, tanh-GELU-gated feed-forward, tied head
// (Gemma team, "Gemma: Open Models Based on Gemini Research and Technology", 2024).

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/decoder_config.h"
#include "models/decoder_formats.h"

namespace weft {
namespace {

DecoderConfig read_gemma(const ModelSource& source) {
  DecoderConfig config = read_common(source, true);
  config.norm.weight_offset = 1;
  config.embedding_scale = std::sqrt(static_cast<double>(config.info.hidden_size));
  config.activation = Activation::gelu_tanh;
  if (source.format == ModelFormat::huggingface)
    config.qkv_bias = config.output_bias = source.config.boolean_or("attention_bias", false);
  return config;
}

WeightMap gemma_keras_weights() {
  constexpr WeightTransform kTranspose = WeightTransform::transpose;
  constexpr WeightTransform kHeadsIn = WeightTransform::heads_in;
  const std::string layer = "model.layers.{i}.";
  const std::string attention = "layers/multi_head_attention{#i}/";
  const std::string mlp = "layers/gemma_feed_forward{#i}/";
  return {.rows = {{"model.embed_tokens.weight", "layers/embedding/vars/0"},
                   {layer + "input_layernorm.weight", "layers/rms_normalization{#2i}/vars/0"},
                   {layer + "self_attn.q_proj.weight", attention + "query_dense/vars/0", kHeadsIn},
                   {layer + "self_attn.k_proj.weight", attention + "key_dense/vars/0", kHeadsIn},
                   {layer + "self_attn.v_proj.weight", attention + "value_dense/vars/0", kHeadsIn},
                   {layer + "self_attn.o_proj.weight", attention + "output_dense/vars/0", WeightTransform::heads_out},
                   {layer + "post_attention_layernorm.weight", "layers/rms_normalization{#2i+1}/vars/0"},
                   {layer + "mlp.gate_proj.weight", mlp + "i0_dense/vars/0", kTranspose},
                   {layer + "mlp.up_proj.weight", mlp + "i1_dense/vars/0", kTranspose},
                   {layer + "mlp.down_proj.weight", mlp + "o_dense/vars/0", kTranspose},
                   {"model.norm.weight", "layers/rms_normalization{#2L}/vars/0"},
                   {"lm_head.weight", "layers/dense/vars/0", kTranspose}},
          .ignored = {"*seed_generator*"}};
}

WeightMap gemma_gguf_weights() {
  WeightMap map = gguf_weights(false, true);
  map.rows.push_back(
      {"model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.ffn_norm.weight", WeightTransform::minus_one});
  return map;
}

void add_huggingface_keys(const DecoderConfig& config, nlohmann::ordered_json& keys) {
  keys["architectures"] = {"GemmaForCausalLM"};
  keys["hidden_activation"] = "gelu_pytorch_tanh";
  keys["attention_bias"] = config.qkv_bias;
}

}  // namespace

Family gemma_family() {
  return {.name = "gemma",
          .huggingface_types = {"gemma"},
          .seed_names = {"gemma"},
          .gguf_architectures = {"gemma"},
          .define = [](const ModelSource& source) {
            return decoder_definition(source.format,
                                      read_gemma(source),
                                      {.huggingface = huggingface_weights(),
                                       .keras_hdf5 = gemma_keras_weights(),
                                       .gguf = gemma_gguf_weights(),
                                       .add_huggingface_keys = add_huggingface_keys,
                                       .gguf_architecture = "gemma",
                                       .gguf_activation = Activation::gelu_tanh});
          }};
}

}  // namespace weft
