// RoFormer (Su et al., 2021) and RoFormer-sim: BERT with rotary positions.

#include "core/error.h"
#include "models/encoder_config.h"

namespace weft {
namespace {

ModelDefinition define_roformer(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "roformer";
  config.positions = AbsolutePositions::rotary;
  // bert4keras3 gives these norms no epsilon.
  if (source.compat) config.eps = config.embedding_eps = 1e-7;
  if (source.config.boolean_or("rotary_value", false)) {
    fail_input("{}: rotary_value is not supported", source.config.path());
  }
  EncoderNames names{.huggingface_prefix = "roformer",
                     .huggingface_mapping = "roformer.embeddings_project",
                     .huggingface_pooler = "roformer.pooler.dense"};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family roformer_family() {
  return {.name = "roformer",
          .huggingface_types = {"roformer"},
          .seed_names = {"roformer", "roformer_sim"},
          .gguf_architectures = {},
          .define = define_roformer};
}

}  // namespace weft
