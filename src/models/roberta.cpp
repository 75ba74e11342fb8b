// RoBERTa (Liu et al., 2019) as fairseq and transformers have it, XLM-RoBERTa (Conneau et al., 2019) and CamemBERT
// (Martin et al., 2020): BERT whose positions are numbered from behind padding's id on.

#include "models/encoder_config.h"

namespace weft {
namespace {

ModelDefinition define_roberta(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "roberta";
  begin_positions_at(source.config.find_integer("pad_token_id").value_or(1) + 1, source.config, config);
  config.head_activation = Activation::gelu_erf;
  config.classifier = {.dense = "classifier.dense", .output = "classifier.out_proj", .activation = Activation::tanh};
  EncoderNames names{.huggingface_prefix = "roberta",
                     .huggingface_mapping = "roberta.embeddings_project",
                     .huggingface_pooler = "roberta.pooler.dense",
                     .huggingface_transform = "lm_head.dense",
                     .huggingface_transform_norm = "lm_head.layer_norm",
                     .huggingface_bias = "lm_head.bias",
                     .huggingface_decoder = "lm_head.decoder",
                     .has_tensorflow = false,
                     .has_keras = false};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

/// "roberta" of --family is bert4keras3's, whose checkpoints are BERT.
Family roberta_family() {
  return {.name = "xlm_roberta",
          .huggingface_types = {"roberta", "xlm-roberta", "camembert"},
          .seed_names = {},
          .gguf_architectures = {},
          .define = define_roberta};
}

}  // namespace weft
