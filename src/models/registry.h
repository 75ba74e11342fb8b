// Families and where they come from: opening a model by path, sizing it, loading it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"

namespace weft {

class CheckpointReader;
class ModelConfig;
struct WeightMap;

/// What the user says about a model; the same flags in every command.
struct ModelOptions {
  std::string path;    // folder or file; or, for planning, a shape file of configs/models/
  std::string family;  // empty: as the config says; the seed's names ("llama", "yi", "qwen", "gemma", …) and ours are known
  std::string compat;  // "bert4keras3": the seed's arithmetic; empty: the original model's
};

/// A model whose config was read and whose checkpoint was opened, but nothing loaded.
struct OpenedModel {
  std::string path;
  std::string format;  // "huggingface", "keras_hdf5", "gguf", "shape" (a config without weights)
  std::string family;
  std::unique_ptr<CheckpointReader> reader;  // null for "shape"
  std::shared_ptr<const ModelConfig> config;

  /// Declares the model for a place among tensor-parallel ranks.
  std::unique_ptr<CausalLanguageModel> make(TensorParallelPlace place) const;
  /// Name and transform of each parameter in this format (models/weight_map.h).
  const WeightMap& weight_map() const;

  bool compat = false;
  const struct Family* entry = nullptr;
};

/// Throws Error(bad_input) for everything in the config that cannot be.
OpenedModel open_model(const ModelOptions& options);

/// Names of all families, for messages and --help.
std::vector<std::string> family_names();

struct LoadOptions {
  DType dtype = DType::f32;    // to compute in: f32 or bf16 (f64 for tests)
  bool for_training = false;   // keep matrices row-major so that backward can read them
  bool show_progress = false;  // rank 0
  int num_threads = 1;
};

struct LoadReport {
  int64_t bytes_read = 0;
  int64_t weight_bytes = 0;  // in memory on this rank
  double seconds = 0;
};

/// Reads this rank's slices straight into place. Checks first that every parameter exists with the right shape and that nothing unknown is left over.
LoadReport load_parameters(const Context& context, const OpenedModel& opened, CausalLanguageModel& model, const LoadOptions& options);

}  // namespace weft
