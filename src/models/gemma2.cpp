// Gemma 2: Gemma with norms after both branches, soft caps on scores and logits, and a sliding window in every other
// layer (Gemma team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024).

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "models/decoder_config.h"
#include "models/decoder_formats.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMaxCap = 1e6;
constexpr int64_t kReleasedWindow = 4096;

/// transformers' query_pre_attn_scalar.
double pre_attention_scalar(const DecoderConfig& config) {
  constexpr double kDigits = 1e6;  // those of the scale are no more exact
  return std::round(kDigits / (config.attention_scale * config.attention_scale)) / kDigits;
}

int64_t window_of(const DecoderConfig& config) {
  int64_t widest = widest_window(config);
  return widest > 0 ? widest : kReleasedWindow;
}

std::vector<int64_t> alternate_windows(int64_t window, int64_t num_layers) {
  std::vector<int64_t> windows;
  for (int64_t layer = 0; layer < num_layers; ++layer) windows.push_back(layer % 2 == 0 ? window : 0);
  return windows;
}

void read_huggingface(const ModelConfig& source, DecoderConfig& config) {
  config.qkv_bias = config.output_bias = source.boolean_or("attention_bias", false);
  config.attention_scale =
      1 / std::sqrt(source.number_or("query_pre_attn_scalar", static_cast<double>(config.info.head_dim), 1e-6, 1e9));
  config.attention_soft_cap = source.number_or("attn_logit_softcapping", 0, 0, kMaxCap);
  config.logit_soft_cap = source.number_or("final_logit_softcapping", 0, 0, kMaxCap);
  int64_t window = source.size_or("sliding_window", kReleasedWindow, int64_t{1} << 30);
  config.windows = alternate_windows(window, config.info.num_layers);
  std::vector<std::string> types = source.strings("layer_types");
  if (types.empty()) return;
  if (static_cast<int64_t>(types.size()) != config.info.num_layers) {
    fail_input("{}: 'layer_types' lists {} layers, 'num_hidden_layers' says {}",
               source.path(),
               types.size(),
               config.info.num_layers);
  }
  for (size_t layer = 0; layer < types.size(); ++layer) {
    if (types[layer] != "sliding_attention" && types[layer] != "full_attention") {
      fail_input("{}: layer type '{}' is unknown; expected sliding_attention or full_attention",
                 source.path(),
                 printable(types[layer]));
    }
    config.windows[layer] = types[layer] == "sliding_attention" ? window : 0;
  }
}

void read_seed(const ModelSource& from, DecoderConfig& config) {
  const ModelConfig& source = from.config;
  if (!source.boolean_or("use_post_ffw_norm", false) || !source.boolean_or("use_post_attention_norm", false)) {
    fail_input("{}: use_post_ffw_norm and use_post_attention_norm must be true for gemma2", source.path());
  }
  if (!source.boolean_or("query_head_dim_normalize", true)) {
    const int64_t width_of_head = config.info.hidden_size / config.info.num_heads;
    config.attention_scale = 1 / std::sqrt(static_cast<double>(width_of_head));
  }
  config.attention_soft_cap = source.number_or("logit_soft_cap", 0, 0, kMaxCap);
  // bert4keras3 lacks the cap on the logits; every Gemma 2 was trained with 30.
  config.logit_soft_cap = from.compat ? 0 : source.number_or("final_logit_softcapping", 30, 0, kMaxCap);
  if (source.boolean_or("use_sliding_window_attention", false)) {
    config.windows = alternate_windows(source.size_or("sliding_window_size", kReleasedWindow, int64_t{1} << 30),
                                       config.info.num_layers);
  }
}

/// The format does not hold query_pre_attn_scalar. Of the released sizes only 27b, the one with 46 layers, departs from
/// head_dim.
double gguf_attention_scale(const ModelInfo& info) {
  constexpr int64_t kLayersOf27b = 46;
  double scalar = info.num_layers == kLayersOf27b
                      ? static_cast<double>(info.hidden_size) / static_cast<double>(info.num_heads)
                      : static_cast<double>(info.head_dim);
  return 1 / std::sqrt(scalar);
}

void read_gguf(const ModelSource& from, DecoderConfig& config) {
  const ModelConfig& source = from.config;
  config.attention_soft_cap = source.number_or(gguf_key(from, "attn_logit_softcapping"), 50, 0, kMaxCap);
  config.logit_soft_cap = source.number_or(gguf_key(from, "final_logit_softcapping"), 30, 0, kMaxCap);
  config.windows =
      alternate_windows(source.size_or(gguf_key(from, "attention.sliding_window"), kReleasedWindow, int64_t{1} << 30),
                        config.info.num_layers);
  config.attention_scale = gguf_attention_scale(config.info);
}

DecoderConfig read_gemma2(const ModelSource& source) {
  DecoderConfig config = read_common(source, true);
  config.norm.weight_offset = 1;
  config.norm_after_branches = true;
  config.embedding_scale = std::sqrt(static_cast<double>(config.info.hidden_size));
  config.activation = Activation::gelu_tanh;
  switch (source.format) {
    case ModelFormat::huggingface:
      read_huggingface(source.config, config);
      break;
    case ModelFormat::keras_hdf5:
      read_seed(source, config);
      break;
    default:
      read_gguf(source, config);
      break;
  }
  return config;
}

WeightMap gemma2_keras_weights() {
  constexpr WeightTransform kTranspose = WeightTransform::transpose;
  constexpr WeightTransform kHeadsIn = WeightTransform::heads_in;
  const std::string layer = "model.layers.{i}.";
  const std::string attention = "layers/gemma2_attention{#i}/";
  const std::string mlp = "layers/gemma_feed_forward{#i}/";
  return {.rows = {{"model.embed_tokens.weight", "layers/embedding/vars/0"},
                   {layer + "input_layernorm.weight", "layers/rms_normalization{#4i}/vars/0"},
                   {layer + "self_attn.q_proj.weight", attention + "query_dense/vars/0", kHeadsIn},
                   {layer + "self_attn.k_proj.weight", attention + "key_dense/vars/0", kHeadsIn},
                   {layer + "self_attn.v_proj.weight", attention + "value_dense/vars/0", kHeadsIn},
                   {layer + "self_attn.o_proj.weight", attention + "output_dense/vars/0", WeightTransform::heads_out},
                   {layer + "post_attention_layernorm.weight", "layers/rms_normalization{#4i+1}/vars/0"},
                   {layer + "pre_feedforward_layernorm.weight", "layers/rms_normalization{#4i+2}/vars/0"},
                   {layer + "mlp.gate_proj.weight", mlp + "i0_dense/vars/0", kTranspose},
                   {layer + "mlp.up_proj.weight", mlp + "i1_dense/vars/0", kTranspose},
                   {layer + "mlp.down_proj.weight", mlp + "o_dense/vars/0", kTranspose},
                   {layer + "post_feedforward_layernorm.weight", "layers/rms_normalization{#4i+3}/vars/0"},
                   {"model.norm.weight", "layers/rms_normalization{#4L}/vars/0"},
                   {"lm_head.weight", "layers/dense/vars/0", kTranspose}},
          .ignored = {"*seed_generator*"}};
}

WeightMap gemma2_gguf_weights() {
  constexpr WeightTransform kMinusOne = WeightTransform::minus_one;
  WeightMap map = gguf_weights(false, true);
  map.rows.push_back(
      {"model.layers.{i}.post_attention_layernorm.weight", "blk.{i}.post_attention_norm.weight", kMinusOne});
  map.rows.push_back({"model.layers.{i}.pre_feedforward_layernorm.weight", "blk.{i}.ffn_norm.weight", kMinusOne});
  map.rows.push_back({"model.layers.{i}.post_feedforward_layernorm.weight", "blk.{i}.post_ffw_norm.weight", kMinusOne});
  return map;
}

void add_huggingface_keys(const DecoderConfig& config, Json& keys) {
  keys["architectures"] = {"Gemma2ForCausalLM"};
  keys["hidden_activation"] = "gelu_pytorch_tanh";
  keys["attention_bias"] = config.qkv_bias;
  keys["query_pre_attn_scalar"] = pre_attention_scalar(config);
  keys["attn_logit_softcapping"] = config.attention_soft_cap > 0 ? Json(config.attention_soft_cap) : Json();
  keys["final_logit_softcapping"] = config.logit_soft_cap > 0 ? Json(config.logit_soft_cap) : Json();
  keys["sliding_window"] = window_of(config);
  Json types = Json::array();
  for (size_t layer = 0; layer < static_cast<size_t>(config.info.num_layers); ++layer) {
    bool slides = layer < config.windows.size() && config.windows[layer] > 0;
    types.push_back(slides ? "sliding_attention" : "full_attention");
  }
  keys["layer_types"] = std::move(types);
}

/// bert4keras3 scales by the head's size or by that of hidden_size / heads, and its window is in every other layer.
void add_keras_keys(const DecoderConfig& config, Json& keys) {
  auto is_scale = [&](int64_t size) { return pre_attention_scalar(config) == static_cast<double>(size); };
  bool by_head = is_scale(config.info.head_dim);
  if (!by_head && !is_scale(config.info.hidden_size / config.info.num_heads)) {
    fail_input("bert4keras3 has no key for this model's query_pre_attn_scalar, {}", pre_attention_scalar(config));
  }
  bool has_window = widest_window(config) > 0;
  if (has_window && config.windows != alternate_windows(window_of(config), config.info.num_layers)) {
    fail_input("bert4keras3 has a sliding window in every other layer from the first; this model's layers differ");
  }
  keys["query_head_dim_normalize"] = by_head;
  keys["use_post_ffw_norm"] = keys["use_post_attention_norm"] = true;
  keys["use_sliding_window_attention"] = has_window;
  keys["sliding_window_size"] = window_of(config);
  if (config.attention_soft_cap > 0) keys["logit_soft_cap"] = config.attention_soft_cap;
  keys["final_logit_softcapping"] = config.logit_soft_cap;
  if (config.logit_soft_cap > 0) log::warning("bert4keras3 does not cap logits; Weft reads 'final_logit_softcapping'");
}

/// GGUF knows the scale of scores by the released sizes, and its window is in every other layer.
void add_gguf_keys(const DecoderConfig& config, Json& keys) {
  if (config.attention_scale != gguf_attention_scale(config.info)) {
    fail_input("GGUF has no key for this model's query_pre_attn_scalar, {}", pre_attention_scalar(config));
  }
  if (config.windows != alternate_windows(window_of(config), config.info.num_layers)) {
    fail_input("in GGUF files of gemma2 every other layer has a sliding window, from the first; this model's differ");
  }
  keys["gemma2.attention.sliding_window"] = window_of(config);
  keys["gemma2.attn_logit_softcapping"] = config.attention_soft_cap;
  keys["gemma2.final_logit_softcapping"] = config.logit_soft_cap;
}

}  // namespace

Family gemma2_family() {
  return {.name = "gemma2",
          .huggingface_types = {"gemma2"},
          .seed_names = {"gemma2"},
          .gguf_architectures = {"gemma2"},
          .define = [](const ModelSource& source) {
            return decoder_definition(source.format,
                                      read_gemma2(source),
                                      {.huggingface = huggingface_weights(),
                                       .keras_hdf5 = gemma2_keras_weights(),
                                       .gguf = gemma2_gguf_weights(),
                                       .add_huggingface_keys = add_huggingface_keys,
                                       .add_keras_keys = add_keras_keys,
                                       .gguf_architecture = "gemma2",
                                       .add_gguf_keys = add_gguf_keys,
                                       .gguf_activation = Activation::gelu_tanh});
          }};
}

}  // namespace weft
