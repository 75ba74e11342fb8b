// GPT (Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018): BERT's blocks with a
// causal mask, no norm of the embedding and the token table as output layer. CDial-GPT, whose speakers are segment ids
// that index the token table, is one.

#include <nlohmann/json.hpp>

#include "models/gpt_config.h"
#include "ops/activation.h"

namespace weft {
namespace {

ModelDefinition define_gpt(const ModelSource& source) {
  EncoderConfig config = read_gpt(source);
  config.has_embedding_norm = false;
  // The original's "gelu" is the tanh form; bert4keras3's is erf's, and its epsilon BERT's.
  std::string activation = source.config.string_or(source.config.has("afn") ? "afn" : "hidden_act", "gelu");
  config.activation = activation == "gelu" && !source.compat ? Activation::gelu_tanh : parse_activation(activation);
  if (source.compat) config.eps = 1e-12;
  const GptNames names{.norm_side = "output",
                       .tokens = "tokens_embed.weight",
                       .positions = "positions_embed.weight",
                       .huggingface_ignored = {"*attn.bias", "*position_ids", "lm_head.weight"}};
  std::string afn = config.activation == Activation::gelu_tanh  ? "gelu"
                    : config.activation == Activation::gelu_erf ? "gelu_erf"
                                                                : std::string(activation_name(config.activation));
  const nlohmann::ordered_json keys = {{"architectures", {"OpenAIGPTLMHeadModel"}}, {"afn", afn}};
  return gpt_definition(source, config, names, keys);
}

}  // namespace

Family gpt_family() {
  return {.name = "gpt",
          .huggingface_types = {"openai-gpt"},
          .seed_names = {"gpt", "gpt_openai"},
          .gguf_architectures = {},
          .define = define_gpt};
}

}  // namespace weft
