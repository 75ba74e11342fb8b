// What a family's file gives to the registry: the names it answers to, how its config is read in each format, and its
// weight names.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/weight_map.h"

namespace weft {

class CheckpointReader;
class ModelConfig;

/// Where a model's config and weights come from.
enum class ModelFormat : uint8_t { huggingface, keras_hdf5, gguf };

/// What a family reads its settings from.
struct ModelSource {
  ModelFormat format = ModelFormat::huggingface;
  const ModelConfig& config;
  const CheckpointReader* reader = nullptr;  // null when only planning
  bool compat = false;                       // bert4keras3's arithmetic instead of the original model's
};

struct Family {
  std::string name;
  std::vector<std::string> huggingface_types;   // model_type in config.json
  std::vector<std::string> seed_names;          // what bert4keras3 calls it
  std::vector<std::string> gguf_architectures;  // general.architecture
  DecoderConfig (*read_config)(const ModelSource& source) = nullptr;
  WeightMap huggingface;
  WeightMap keras_hdf5;
  WeightMap gguf;

  const WeightMap& weight_map(ModelFormat format) const {
    return format == ModelFormat::huggingface ? huggingface : format == ModelFormat::gguf ? gguf : keras_hdf5;
  }
};

Family llama_family();
Family qwen2_family();
Family gemma_family();
Family gemma2_family();

}  // namespace weft
