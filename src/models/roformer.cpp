// RoFormer (Su et al., 2021) and RoFormer-sim: BERT with rotary positions.

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/encoder_config.h"

namespace weft {
namespace {

/// transformers keeps the sinusoids as a weight, [positions, head_dim], sines before cosines; a file may hold others.
std::shared_ptr<const std::vector<float>> read_rotary_table(const ModelSource& source, const EncoderConfig& config) {
  constexpr std::string_view kName = "roformer.encoder.embed_positions.weight";
  if (source.format != ModelFormat::huggingface || source.reader == nullptr) return nullptr;
  const TensorInfo* info = source.reader->find(kName);
  if (info == nullptr) return nullptr;
  Shape expected = {config.info.max_positions, config.info.head_dim};
  if (info->shape != expected) {
    fail_input("{}: {} is {}, config says {}", info->file, kName, to_string(info->shape), to_string(expected));
  }
  auto table = std::make_shared<std::vector<float>>(static_cast<size_t>(expected.num_elements()));
  source.reader->read(kName, table->data(), DType::f32);
  return table;
}

ModelDefinition define_roformer(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "roformer";
  config.positions = AbsolutePositions::rotary;
  // bert4keras3 gives these norms no epsilon.
  if (source.compat) config.eps = config.embedding_eps = 1e-7;
  if (source.config.boolean_or("rotary_value", false)) {
    fail_input("{}: rotary_value is not supported", source.config.path());
  }
  config.rotary_table = read_rotary_table(source, config);
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
