// What a family's file gives to the registry: the names it answers to, and what it makes of a config.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/weight_map.h"

namespace weft {

class CheckpointReader;
class ModelConfig;

/// Where a model's config and weights come from.
enum class ModelFormat : uint8_t { huggingface, keras_hdf5, gguf, tensorflow };

/// What a family reads its settings from.
struct ModelSource {
  ModelFormat format = ModelFormat::huggingface;
  const ModelConfig& config;
  const CheckpointReader* reader = nullptr;                  // null when only planning
  bool compat = false;                                       // bert4keras3's arithmetic instead of the original model's
  std::string family = {};                                   // its name
  std::optional<AttentionPattern> attention = std::nullopt;  // as the user says; null: the family's own
  std::string alias = {};                                    // the family as the user or the config names it
  bool encoder_alone = false;                                // of an encoder-decoder
};

/// A tensor of a format that is no parameter.
struct ConstantTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

/// A model as its config describes it.
struct ModelDefinition {
  ModelInfo info;
  /// Declares it for a place among tensor-parallel ranks. Throws Error(bad_input) when the ranks cannot share it.
  std::function<std::unique_ptr<LanguageModel>(TensorParallelPlace place)> make;
  /// How its weights are called in a format. Throws Error(bad_input) for one that the family does not exist in.
  std::function<WeightMap(ModelFormat format)> weights;
  /// Of a checkpoint whose names are not those that the format has for this model: Weft's own, as `weft train` saves
  /// them, or those of a whole of which the model is a half.
  std::optional<WeightMap> stored = std::nullopt;
  /// The config in the keys of a format, a JSON object, or "" where it has them already; null: all formats share
  /// theirs.
  std::function<std::string(ModelFormat format)> config = nullptr;
  /// What a format's files hold besides the parameters; null: nothing.
  std::function<std::vector<ConstantTensor>(ModelFormat format)> constants = nullptr;
  /// Of the decoders that are settings of one (decoder.h): what the planner goes by.
  std::optional<DecoderConfig> decoder;
};

struct Family {
  std::string name;
  std::vector<std::string> huggingface_types;   // model_type in config.json
  std::vector<std::string> seed_names;          // what bert4keras3 calls it
  std::vector<std::string> gguf_architectures;  // general.architecture
  std::function<ModelDefinition(const ModelSource& source)> define;
  /// For families whose checkpoints come without a config: one as JSON from the tensors' shapes, or "" for tensors that
  /// are not the family's. Null: they come with one.
  std::function<std::string(const CheckpointReader& reader)> derive_config = nullptr;
};

/// Rows of every parameter of a model under its own name, if a safetensors checkpoint has it so and not as the format
/// has it (`theirs`, or null where the family does not exist there).
std::optional<WeightMap> own_names(const ModelSource& source,
                                   const std::function<std::unique_ptr<LanguageModel>(TensorParallelPlace)>& make,
                                   const std::optional<WeightMap>& theirs);

Family llama_family();
Family qwen2_family();
Family gemma_family();
Family gemma2_family();
Family bert_family();
Family roberta_family();
Family distilbert_family();
Family mpnet_family();
Family albert_family();
Family albert_unshared_family();
Family nezha_family();
Family electra_family();
Family roformer_family();
Family roformer_v2_family();
Family gau_alpha_family();
Family deberta_family();
Family t5_family();
Family umt5_family();
Family rwkv6_family();
Family gpt_family();
Family gpt2_family();
Family gpt2_ml_family();

}  // namespace weft
