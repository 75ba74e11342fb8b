// RoFormerV2 (Su et al., 2022): RoFormer without biases and with RMS norms without parameters.

#include "models/encoder_config.h"

namespace weft {
namespace {

ModelDefinition define_roformer_v2(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "roformer";
  config.positions = AbsolutePositions::rotary;
  config.has_bias = config.has_layer_norm = config.has_head_transform = config.has_head_bias = false;
  config.eps = config.embedding_eps = 1e-7;
  config.dropout_before_embedding_norm = true;
  EncoderNames names{.has_huggingface = false};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family roformer_v2_family() {
  return {.name = "roformer_v2",
          .huggingface_types = {},
          .seed_names = {"roformer_v2"},
          .gguf_architectures = {},
          .define = define_roformer_v2};
}

}  // namespace weft
