// GPT-2 (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) and CPM-LM: GPT with norms before
// attention and feed-forward, and one behind the last block.

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/encoder_block.h"
#include "models/gpt_config.h"
#include "ops/activation.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

constexpr const char* kNormSide = "input";

/// x + attention(norm(x)), then x + mlp(norm(x)).
class PreNormBlock final : public EncoderBlock {
 public:
  PreNormBlock(ParameterStore& store, const EncoderConfig& config, int64_t layer)
      : parts_(add_block_parts(store, config, layer)) {
    std::string name = block_name(config, layer) + ".";
    attention_norm_ =
        add_post_norm(store, config, name + gpt_attention_norm(kNormSide), config.info.hidden_size, config.eps);
    mlp_norm_ = add_post_norm(store, config, name + gpt_mlp_norm(kNormSide), config.info.hidden_size, config.eps);
  }

  std::vector<Tensor> forward(Context& context,
                              const std::vector<Tensor>& inputs,
                              const EncoderPass& pass,
                              int64_t layer) const override {
    const Tensor& x = inputs[0];
    Tensor attended = parts_.attend(context, attention_norm_.forward(context, x, pass), pass, layer);
    Tensor middle = add(context, attended, x);
    Tensor branch = parts_.feed_forward(context, mlp_norm_.forward(context, middle, pass), pass, layer);
    return {add(context, branch, middle)};
  }

  std::vector<Linear*> linears() override { return parts_.linears(); }

 private:
  BlockParts parts_;
  PostNorm attention_norm_, mlp_norm_;
};

ModelDefinition define_gpt2(const ModelSource& source) {
  const ModelConfig& from = source.config;
  EncoderConfig config = read_gpt(source);
  config.has_embedding_norm = false;
  config.has_final_norm = true;
  if (from.boolean_or("scale_attn_by_inverse_layer_idx", false) || !from.boolean_or("scale_attn_weights", true)) {
    fail_input("{}: attention scores with a scale other than 1/sqrt(head size) are not supported for gpt2",
               from.path());
  }
  // bert4keras3's "gelu" is erf's form, the original's the tanh form.
  std::string activation =
      from.string_or(from.has("activation_function") ? "activation_function" : "hidden_act", "gelu");
  config.activation = activation == "gelu" && !source.compat && source.format != ModelFormat::huggingface
                          ? Activation::gelu_tanh
                          : parse_activation(activation);
  config.make_block = [](ParameterStore& store, const EncoderConfig& of, int64_t layer) {
    return std::make_unique<PreNormBlock>(store, of, layer);
  };
  const GptNames names{.norm_side = kNormSide,
                       .tokens = "wte.weight",
                       .positions = "wpe.weight",
                       .huggingface_ignored = {"*attn.bias", "*attn.masked_bias", "lm_head.weight"}};
  std::string function = config.activation == Activation::gelu_tanh  ? "gelu_new"
                         : config.activation == Activation::gelu_erf ? "gelu"
                                                                     : std::string(activation_name(config.activation));
  const nlohmann::ordered_json keys = {{"architectures", {"GPT2LMHeadModel"}}, {"activation_function", function}};
  return gpt_definition(source, config, names, keys);
}

}  // namespace

Family gpt2_family() {
  return {.name = "gpt2",
          .huggingface_types = {"gpt2"},
          .seed_names = {"gpt2"},
          .gguf_architectures = {},
          .define = define_gpt2};
}

}  // namespace weft
