// GPT2-ML (Zhang, 2019), a Grover (Zellers et al., "Defending Against Neural Fake News", 2019): the embedding normed,
// no norm between attention and its residual, a norm before and one after the feed-forward.

#include <fmt/format.h>

#include "core/error.h"
#include "models/encoder_block.h"
#include "models/gpt_config.h"
#include "models/registry.h"
#include "ops/activation.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

constexpr const char* kFirstNorm = "input.LayerNorm";
constexpr const char* kSecondNorm = "output.LayerNorm";

/// y = x + attention(x), then norm(y + mlp(norm(y))).
class GroverBlock final : public EncoderBlock {
 public:
  GroverBlock(ParameterStore& store, const EncoderConfig& config, int64_t layer)
      : parts_(add_block_parts(store, config, layer)) {
    std::string name = block_name(config, layer) + ".";
    first_norm_ = add_post_norm(store, config, name + kFirstNorm, config.info.hidden_size, config.eps);
    second_norm_ = add_post_norm(store, config, name + kSecondNorm, config.info.hidden_size, config.eps);
  }

  std::vector<Tensor> forward(Context& context,
                              const std::vector<Tensor>& inputs,
                              const EncoderPass& pass,
                              int64_t layer) const override {
    Tensor middle = add(context, parts_.attend(context, inputs[0], pass, layer), inputs[0]);
    Tensor branch = parts_.feed_forward(context, first_norm_.forward(context, middle, pass), pass, layer);
    return {second_norm_.forward_add(context, branch, middle, pass)};
  }

  std::vector<Linear*> linears() override { return parts_.linears(); }

 private:
  BlockParts parts_;
  PostNorm first_norm_, second_norm_;
};

GptBlockNames with_norms(GptBlockNames names, const std::string& first, const std::string& second) {
  names.our_attention_norm = kFirstNorm;
  names.our_mlp_norm = kSecondNorm;
  names.attention_norm = first;
  names.mlp_norm = second;
  return names;
}

WeightMap keras_weights(const EncoderConfig& config) {
  WeightMap map;
  map.rows = gpt_block_rows(
      config,
      with_norms(keras_gpt_block(), "layers/layer_normalization{#2i+1}", "layers/layer_normalization{#2i+2}"),
      kKerasDense,
      kKerasNorm);
  add_pair(map.rows, config.prefix + ".embeddings.LayerNorm", "layers/layer_normalization", kKerasNorm);
  add_gpt_tables(map.rows, config, "layers/embedding/vars/0", "layers/position_embedding/vars/0");
  map.ignored = {"*seed_generator*"};
  return map;
}

/// Layers have numbers of two digits.
WeightMap tensorflow_weights(const EncoderConfig& config) {
  WeightMap map;
  for (int64_t layer = 0; layer < config.info.num_layers; ++layer) {
    std::string block = fmt::format("newslm/layer{:02}/", layer);
    GptBlockNames names{.query = block + "query_layer",
                        .key = block + "key_layer",
                        .value = block + "value_layer",
                        .output = block + "context_projection_layer",
                        .up = block + "intermediate",
                        .down = block + "output"};
    names = with_norms(names, block + "LayerNorm_mlp_ln0", block + "LayerNorm_mlp_ln1");
    for (WeightRow& row : gpt_block_rows(config, names, kTensorflowDense, kTensorflowNorm)) {
      row.ours.replace(row.ours.find("{i}"), 3, std::to_string(layer));
      map.rows.push_back(std::move(row));
    }
  }
  std::string tables = "newslm/embeddings/";
  add_pair(map.rows, config.prefix + ".embeddings.LayerNorm", tables + "LayerNorm_embed_norm", kTensorflowNorm);
  add_gpt_tables(map.rows, config, tables + "word_embed", tables + "pos_embed");
  map.ignored = tensorflow_training_tensors();
  return map;
}

ModelDefinition define_gpt2_ml(const ModelSource& source) {
  EncoderConfig config = read_gpt(source);
  config.info.num_segments = 0;
  config.activation = parse_activation(source.config.string_or("hidden_act", "gelu"));
  config.make_block = [](ParameterStore& store, const EncoderConfig& of, int64_t layer) {
    return std::make_unique<GroverBlock>(store, of, layer);
  };
  auto weights = [config](ModelFormat format) {
    if (format == ModelFormat::keras_hdf5) return keras_weights(config);
    if (format == ModelFormat::tensorflow) return tensorflow_weights(config);
    fail_input("gpt2_ml models do not exist as {} checkpoints", model_format_name(format));
  };
  return encoder_definition(source, config, weights, false);
}

}  // namespace

Family gpt2_ml_family() {
  return {.name = "gpt2_ml",
          .huggingface_types = {},
          .seed_names = {"gpt2_ml"},
          .gguf_architectures = {},
          .define = define_gpt2_ml};
}

}  // namespace weft
