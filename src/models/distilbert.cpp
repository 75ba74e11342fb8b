// DistilBERT (Sanh et al., 2019): BERT without segments and pooler.

#include "models/encoder_block.h"
#include "models/encoder_config.h"
#include "models/weight_rows.h"

namespace weft {
namespace {

struct Part {
  const char* ours;
  const char* theirs;
};

constexpr Part kParts[] = {
    {"attention.self.query", "attention.q_lin"},
    {"attention.self.key", "attention.k_lin"},
    {"attention.self.value", "attention.v_lin"},
    {"attention.output.dense", "attention.out_lin"},
    {"attention.output.LayerNorm", "sa_layer_norm"},
    {"intermediate.dense", "ffn.lin1"},
    {"output.dense", "ffn.lin2"},
    {"output.LayerNorm", "output_layer_norm"},
};

std::vector<WeightRow> block_rows(const EncoderConfig& config, ModelFormat /*format*/, const std::string& prefix) {
  std::vector<WeightRow> rows;
  for (const Part& part : kParts) {
    add_pair(
        rows, block_name(config, -1) + ".{i}." + part.ours, prefix + "transformer.layer.{i}." + part.theirs, kTorch);
  }
  return rows;
}

ModelDefinition define_distilbert(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "distilbert";
  config.info.num_segments = 0;
  config.drops_attended = false;
  config.classifier = {.dense = "pre_classifier", .activation = Activation::relu, .drops_input = false};
  EncoderNames names{.huggingface_prefix = "distilbert",
                     .huggingface_mapping = "distilbert.embeddings_project",
                     .huggingface_pooler = "distilbert.pooler.dense",
                     .huggingface_transform = "vocab_transform",
                     .huggingface_transform_norm = "vocab_layer_norm",
                     .huggingface_bias = "vocab_projector.bias",
                     .huggingface_decoder = "vocab_projector",
                     .block_rows = block_rows,
                     .has_tensorflow = false,
                     .has_keras = false};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family distilbert_family() {
  return {.name = "distilbert",
          .huggingface_types = {"distilbert"},
          .seed_names = {},
          .gguf_architectures = {},
          .define = define_distilbert};
}

}  // namespace weft
