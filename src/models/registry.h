// Families and where they come from: opening a model by path, sizing it, loading it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/family.h"
#include "models/model.h"

namespace weft {

/// What the user says about a model; the same flags in every command.
struct ModelOptions {
  std::string path;  // folder or file; or, for planning, a shape file of configs/models/
  std::string
      family;  // empty: as the config says; bert4keras3's names ("llama", "yi", "qwen", "gemma", …) and ours are known
  std::string compat;                 // "bert4keras3": its arithmetic; empty: the original model's
  std::string application = {};       // "encoder", "lm" or "unilm": which tokens see which; empty: the family's own
  std::string config = {};            // the config's file, where it does not lie beside the weights
  std::string overrides = {};         // a JSON object whose keys take the place of the config's
  std::vector<std::string> set = {};  // KEY=VALUE, which take the place of both; VALUE is JSON, or else a text
  bool encoder_alone = false;         // of an encoder-decoder; other models are as they are
};

/// A model whose config was read and whose checkpoint was opened, but nothing loaded.
struct OpenedModel {
  std::string path;
  std::string overrides;  // of the config, as ModelOptions said: a JSON object or empty
  ModelFormat format = ModelFormat::huggingface;
  std::shared_ptr<const CheckpointReader> reader;  // null for a config without weights
  std::shared_ptr<const ModelConfig> config;
  const Family* family = nullptr;
  ModelDefinition definition;
  WeightMap weights;  // name and layout of each parameter in this format

  const ModelInfo& info() const { return definition.info; }
  /// Declares the model for a place among tensor-parallel ranks. Throws Error(bad_input) when the ranks cannot share
  /// it.
  std::unique_ptr<LanguageModel> make(TensorParallelPlace place) const { return definition.make(place); }
  const WeightMap& weight_map() const { return weights; }
  /// Throws Error(bad_input) for a family that is none of the decoders; `use` is for the message.
  const DecoderConfig& decoder(std::string_view use) const;
};

/// Throws Error(bad_input) for everything in the config that cannot be, and Error(usage) for a key in `set` that the
/// family does not read.
OpenedModel open_model(const ModelOptions& options);

/// "huggingface", "keras_hdf5", "gguf", "tensorflow"
std::string_view model_format_name(ModelFormat format);

/// Names of all families, for messages and --help.
std::vector<std::string> family_names();

/// How many bits weights keep in memory: those of the compute dtype, or 8 or 4 with a scale for each 32 of them
/// (kernels/linear.h). Matrices that stand in no block (token tables, output heads) keep 8 where 4 are asked for.
enum class Quantization : uint8_t { none, int8, int4 };

/// "none", "int8", "int4"; throws Error(usage) for others.
Quantization parse_quantization(std::string_view name);
std::string_view quantization_name(Quantization quantization);

struct LoadOptions {
  DType dtype = DType::f32;                        // to compute in: f32 or bf16 (f64 for tests)
  bool for_training = false;                       // keep matrices row-major so that backward can read them
  Quantization quantization = Quantization::none;  // of matrices; for_training: of blocks' only, which stay frozen
  bool show_progress = false;                      // rank 0
  int num_threads = 1;
  uint64_t seed = 0;                            // of a task's new layers and what is missing
  std::optional<int64_t> block = std::nullopt;  // only the parameters of this block (kOuterBlock: those of none)
  bool allow_missing = false;                   // parameters whose tensors the checkpoint lacks begin at random
};

struct LoadReport {
  int64_t bytes_read = 0;
  int64_t weight_bytes = 0;  // in memory on this rank
  double seconds = 0;
};

/// Reads this rank's slices straight into place: into the values that are defined already, where shape, dtype and
/// layout are as wanted, else into new ones. Checks first that every parameter exists with the right shape and that
/// nothing unknown is left over. Throws Error(usage) for a quantization that the device or a model to train lacks.
LoadReport load_parameters(const Context& context,
                           const OpenedModel& opened,
                           LanguageModel& model,
                           const LoadOptions& options);

/// Throws Error(bad_input) unless the checkpoint has the tensor that a parameter is in, in the shape that it has to
/// have.
void check_source(const OpenedModel& opened, const Parameter& parameter, const WeightSource& source);

/// Random values of the right scale instead of a checkpoint, as each parameter says (Parameter::initial). The same
/// values at every tensor-parallel degree, block by block or at once.
void initialise_parameters(const Context& context, LanguageModel& model, const LoadOptions& options, uint64_t seed);

/// Bytes that a parameter's local slice takes in memory under these options.
int64_t parameter_bytes(const Context& context, const Parameter& parameter, const LoadOptions& options);

}  // namespace weft
