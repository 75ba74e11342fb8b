// ELECTRA (Clark et al., 2020): BERT's body, trained as a discriminator of replaced tokens, or as the smaller generator
// that replaces them.

#include "checkpoint/reader.h"
#include "models/encoder_config.h"
#include "ops/activation.h"

namespace weft {
namespace {

/// A TensorFlow checkpoint holds both; its generator is asked for by "generator": true.
EncoderNames names_of(const ModelSource& source) {
  EncoderNames names{.tensorflow_prefix = "electra",
                     .tensorflow_mapping = "electra/embeddings_project",
                     .tensorflow_transform = "generator_predictions/dense",
                     .tensorflow_transform_norm = "generator_predictions/LayerNorm",
                     .tensorflow_bias = "generator_predictions/output_bias",
                     .huggingface_prefix = "electra",
                     .huggingface_mapping = "electra.embeddings_project",
                     .huggingface_pooler = "electra.pooler.dense",
                     .huggingface_transform = "generator_predictions.dense",
                     .huggingface_transform_norm = "generator_predictions.LayerNorm",
                     .huggingface_bias = "generator_lm_head.bias",
                     .huggingface_decoder = "generator_lm_head"};
  if (source.config.boolean_or("generator", false)) {
    names.tensorflow_prefix = "generator";
    names.tensorflow_embeddings = "electra/embeddings";
    names.tensorflow_mapping = "generator/embeddings_project";
  }
  return names;
}

ModelDefinition define_electra(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "electra";
  config.classifier = {.dense = "classifier.dense", .output = "classifier.out_proj"};
  EncoderNames names = names_of(source);
  find_heads(source, names, config);
  // transformers' generators have erf's gelu here, whatever hidden_act says.
  if (source.format == ModelFormat::huggingface && config.info.has_language_model_head) {
    config.head_activation = Activation::gelu_erf;
  }
  bool is_generator = source.config.boolean_or("generator", false);
  if (source.format == ModelFormat::tensorflow) {
    config.info.has_language_model_head = config.info.has_language_model_head && is_generator;
    config.has_replaced_head = config.has_replaced_head && !is_generator;
  }
  return encoder_definition(source, names, config);
}

}  // namespace

Family electra_family() {
  return {.name = "electra",
          .huggingface_types = {"electra"},
          .seed_names = {"electra"},
          .gguf_architectures = {},
          .define = define_electra};
}

}  // namespace weft
