// RoFormer (Su et al., 2021) and RoFormer-sim: BERT with rotary positions.

#include <cmath>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/encoder_config.h"
#include "models/registry.h"

namespace weft {
namespace {

constexpr std::string_view kTable = "roformer.encoder.embed_positions.weight";

/// transformers keeps the sinusoids as a weight, [positions, head_dim], sines before cosines; a file may hold others.
std::shared_ptr<const std::vector<float>> read_rotary_table(const ModelSource& source, const EncoderConfig& config) {
  if (source.format != ModelFormat::huggingface || source.reader == nullptr) return nullptr;
  const TensorInfo* info = source.reader->find(kTable);
  if (info == nullptr) return nullptr;
  Shape expected = {config.info.max_positions, config.info.head_dim};
  if (info->shape != expected) {
    fail_input("{}: {} is {}, config says {}", info->file, kTable, to_string(info->shape), to_string(expected));
  }
  auto table = std::make_shared<std::vector<float>>(static_cast<size_t>(expected.num_elements()));
  source.reader->read(kTable, table->data(), DType::f32);
  return table;
}

bool holds_sinusoids(const std::vector<float>& table, int64_t head_dim) {
  constexpr double kTolerance = 1e-4;
  int64_t half = head_dim / 2;
  for (size_t i = 0; i < table.size(); ++i) {
    int64_t position = static_cast<int64_t>(i) / head_dim;
    int64_t column = static_cast<int64_t>(i) % head_dim;
    double angle = static_cast<double>(position) *
                   std::pow(10000.0, -2.0 * static_cast<double>(column % half) / static_cast<double>(head_dim));
    double expected = column < half ? std::sin(angle) : std::cos(angle);
    if (std::abs(static_cast<double>(table[i]) - expected) > kTolerance) return false;
  }
  return true;
}

/// Only transformers' files have a place for the table.
std::vector<ConstantTensor> table_in(ModelFormat format, const EncoderConfig& config) {
  if (config.rotary_table == nullptr) return {};
  int64_t head_dim = config.info.head_dim;
  if (format == ModelFormat::huggingface) {
    return {{std::string(kTable), {config.info.max_positions, head_dim}, *config.rotary_table}};
  }
  if (!holds_sinusoids(*config.rotary_table, head_dim)) {
    fail_input("{} holds other values than sinusoids, and {} files have no place for them; convert to safetensors",
               kTable,
               model_format_name(format));
  }
  return {};
}

ModelDefinition define_roformer(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "roformer";
  config.positions = AbsolutePositions::rotary;
  config.classifier = {.dense = "classifier.dense", .output = "classifier.out_proj", .activation = config.activation};
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
  ModelDefinition definition = encoder_definition(source, names, config);
  definition.constants = [config](ModelFormat format) { return table_in(format, config); };
  return definition;
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
