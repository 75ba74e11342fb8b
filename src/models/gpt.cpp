// GPT (Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018): BERT's blocks with a
// causal mask, no norm of the embedding and the token table as output layer. CDial-GPT, whose speakers are segment ids
// that index the token table, is one.

#include "core/error.h"
#include "models/gpt_config.h"
#include "models/registry.h"
#include "ops/activation.h"

namespace weft {
namespace {

WeightMap gpt_weights(const EncoderConfig& config, ModelFormat format, const CheckpointReader* reader) {
  WeightMap map;
  GptBlockNames names;
  auto with_norms = [](GptBlockNames block) {
    block.our_attention_norm = "attention.output.LayerNorm";
    block.our_mlp_norm = "output.LayerNorm";
    return block;
  };
  switch (format) {
    case ModelFormat::keras_hdf5:
      names = keras_gpt_block();
      names.attention_norm = "layers/layer_normalization{#2i}";
      names.mlp_norm = "layers/layer_normalization{#2i+1}";
      map.rows = gpt_block_rows(config, with_norms(names), kKerasDense, kKerasNorm);
      add_gpt_tables(
          map.rows, config, "layers/embedding/vars/0", "layers/position_embedding/vars/0", "layers/embedding_1/vars/0");
      map.ignored = {"*seed_generator*"};
      return map;
    case ModelFormat::tensorflow: {
      names = tensorflow_gpt_block();
      names.attention_norm = "gpt/transformer/layer_{i}/attention/output/LayerNorm";
      names.mlp_norm = "gpt/transformer/layer_{i}/output/LayerNorm";
      map.rows = gpt_block_rows(config, with_norms(names), kTensorflowDense, kTensorflowNorm);
      std::string tables = "gpt/embeddings/";
      add_gpt_tables(map.rows,
                     config,
                     tables + "word_embeddings",
                     tables + "position_embeddings",
                     tables + "token_type_embeddings");
      map.ignored = tensorflow_training_tensors();
      return map;
    }
    case ModelFormat::huggingface: {
      std::string prefix = huggingface_gpt_prefix(reader, "tokens_embed.weight");
      map.rows = gpt_block_rows(config, with_norms(huggingface_gpt_block(prefix)), kTorchConv1d, kTorch);
      add_gpt_tables(map.rows, config, prefix + "tokens_embed.weight", prefix + "positions_embed.weight");
      map.ignored = {"*attn.bias", "*position_ids", "lm_head.weight"};
      return map;
    }
    default:
      fail_input("gpt models do not exist as {} checkpoints", model_format_name(format));
  }
}

ModelDefinition define_gpt(const ModelSource& source) {
  EncoderConfig config = read_gpt(source);
  config.has_embedding_norm = false;
  // The original's "gelu" is the tanh form; bert4keras3's is erf's, and its epsilon BERT's.
  std::string activation = source.config.string_or(source.config.has("afn") ? "afn" : "hidden_act", "gelu");
  config.activation = activation == "gelu" && !source.compat ? Activation::gelu_tanh : parse_activation(activation);
  if (source.compat) config.eps = 1e-12;
  auto weights = [config, own = source.format, reader = source.reader](ModelFormat format) {
    return gpt_weights(config, format, format == own ? reader : nullptr);
  };
  return encoder_definition(source, config, weights, true);
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
