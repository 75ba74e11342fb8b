// BERT (Devlin et al., 2018), RoBERTa as Chinese releases have it, wwm, WoBERT, LaBSE, SimBERT; and NEZHA-Gen, which is
// BERT with causal attention and without segments.

#include "models/encoder_config.h"

namespace weft {
namespace {

ModelDefinition define_bert(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  const ModelConfig& from = source.config;
  if (from.has("hierarchical_position")) {
    double alpha = from.number_or("hierarchical_position", 1, 0, 1);
    if (alpha > 0) config.positions = AbsolutePositions::hierarchical;
    if (alpha > 0 && alpha < 1) config.hierarchical_alpha = alpha;
  }
  EncoderNames names;
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family bert_family() {
  return {.name = "bert",
          .huggingface_types = {"bert"},
          .seed_names = {"bert", "roberta"},
          .gguf_architectures = {},
          .define = define_bert};
}

}  // namespace weft
