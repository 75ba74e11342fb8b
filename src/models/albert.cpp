// ALBERT (Lan et al., 2019): BERT whose blocks share one set of weights, with an embedding smaller than the hidden
// size. albert_unshared gives each block a copy of its own.

#include "models/encoder_block.h"
#include "models/encoder_config.h"

namespace weft {
namespace {

struct Part {
  const char* ours;
  const char* tensorflow;
  const char* huggingface;
  bool is_norm = false;
};

constexpr Part kParts[] = {
    {"attention.self.query", "attention_1/self/query", "attention.query"},
    {"attention.self.key", "attention_1/self/key", "attention.key"},
    {"attention.self.value", "attention_1/self/value", "attention.value"},
    {"attention.output.dense", "attention_1/output/dense", "attention.dense"},
    {"attention.output.LayerNorm", "LayerNorm", "attention.LayerNorm", true},
    {"intermediate.dense", "ffn_1/intermediate/dense", "ffn"},
    {"output.dense", "ffn_1/intermediate/output/dense", "ffn_output"},
    {"output.LayerNorm", "LayerNorm_1", "full_layer_layer_norm", true},
};

/// Every block of albert_unshared starts from the one that the checkpoint has.
std::vector<WeightRow> albert_block_rows(const EncoderConfig& config, ModelFormat format, const std::string& prefix) {
  std::vector<WeightRow> rows;
  bool is_tensorflow = format == ModelFormat::tensorflow;
  std::string ours = block_name(config, -1) + (config.shares_blocks ? "." : ".{i}.");
  std::string theirs = prefix + (is_tensorflow ? "encoder/transformer/group_0/inner_group_0/"
                                               : "encoder.albert_layer_groups.0.albert_layers.0.");
  for (const Part& part : kParts) {
    std::string name = theirs + (is_tensorflow ? part.tensorflow : part.huggingface);
    std::string weight = !is_tensorflow ? ".weight" : part.is_norm ? "/gamma" : "/kernel";
    std::string bias = !is_tensorflow ? ".bias" : part.is_norm ? "/beta" : "/bias";
    bool is_transposed = is_tensorflow && !part.is_norm;
    rows.push_back({ours + part.ours + ".weight",
                    name + weight,
                    is_transposed ? WeightTransform::transpose : WeightTransform::none});
    rows.push_back({ours + part.ours + ".bias", name + bias});
  }
  return rows;
}

ModelDefinition define(const ModelSource& source, bool shares_blocks) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "albert";
  config.shares_blocks = shares_blocks;
  // bert4keras3 gives the blocks' norms no epsilon.
  if (source.compat) config.eps = 1e-7;
  EncoderNames names{.huggingface_prefix = "albert",
                     .huggingface_mapping = "albert.encoder.embedding_hidden_mapping_in",
                     .huggingface_pooler = "albert.pooler",
                     .huggingface_pair_head = "sop_classifier.classifier",
                     .huggingface_transform = "predictions.dense",
                     .huggingface_transform_norm = "predictions.LayerNorm",
                     .huggingface_bias = "predictions.bias",
                     .huggingface_decoder = "predictions.decoder",
                     .names_parameters = shares_blocks};
  names.block_rows = [](const EncoderConfig& of, ModelFormat format, const std::string& prefix) {
    return format == ModelFormat::keras_hdf5 ? bert_block_rows(of, format, prefix)
                                             : albert_block_rows(of, format, prefix);
  };
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family albert_family() {
  return {.name = "albert",
          .huggingface_types = {"albert"},
          .seed_names = {"albert"},
          .gguf_architectures = {},
          .define = [](const ModelSource& source) { return define(source, true); }};
}

Family albert_unshared_family() {
  return {.name = "albert_unshared",
          .huggingface_types = {},
          .seed_names = {"albert_unshared"},
          .gguf_architectures = {},
          .define = [](const ModelSource& source) { return define(source, false); }};
}

}  // namespace weft
