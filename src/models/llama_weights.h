// bert4keras3 has one class for Llama, Yi and Qwen: one set of Keras names and keys serves the two families.
#pragma once

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/decoder.h"
#include "models/model_config.h"
#include "models/weight_map.h"

namespace weft {

inline WeightMap llama_keras_weights() {
  constexpr WeightTransform kTranspose = WeightTransform::transpose;
  const std::string layer = "model.layers.{i}.";
  const std::string attention = "layers/multi_head_attention{#i}/";
  const std::string mlp = "layers/l_lama_feed_forward{#i}/_feedforward_";
  return {.rows = {{"model.embed_tokens.weight", "layers/embedding/vars/0"},
                   {layer + "input_layernorm.weight", "layers/llama_layer_norm{#2i}/vars/0"},
                   {layer + "self_attn.q_proj.weight", attention + "q_dense/vars/0", kTranspose},
                   {layer + "self_attn.k_proj.weight", attention + "k_dense/vars/0", kTranspose},
                   {layer + "self_attn.v_proj.weight", attention + "v_dense/vars/0", kTranspose},
                   {layer + "self_attn.o_proj.weight", attention + "o_dense/vars/0", kTranspose},
                   {layer + "self_attn.q_proj.bias", attention + "q_dense/vars/1"},
                   {layer + "self_attn.k_proj.bias", attention + "k_dense/vars/1"},
                   {layer + "self_attn.v_proj.bias", attention + "v_dense/vars/1"},
                   {layer + "self_attn.o_proj.bias", attention + "o_dense/vars/1"},
                   {layer + "post_attention_layernorm.weight", "layers/llama_layer_norm{#2i+1}/vars/0"},
                   {layer + "mlp.gate_proj.weight", mlp + "gate_dense/vars/0", kTranspose},
                   {layer + "mlp.up_proj.weight", mlp + "intermediate_dense/vars/0", kTranspose},
                   {layer + "mlp.down_proj.weight", mlp + "output_dense/vars/0", kTranspose},
                   {"model.norm.weight", "layers/llama_layer_norm{#2L}/vars/0"},
                   {"lm_head.weight", "layers/dense/vars/0", kTranspose}},
          .ignored = {"*seed_generator*"}};
}

/// What bert4keras3's class reads beside what all decoders have.
inline void add_llama_keras_keys(const DecoderConfig& config, nlohmann::ordered_json& keys) {
  keys["hidden_act"] = seed_activation_name(config.activation);
  if (widest_window(config) > 0) fail_input("bert4keras3 has no sliding windows for this family");
}

}  // namespace weft
