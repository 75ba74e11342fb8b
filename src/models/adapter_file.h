// Adapters as PEFT saves them: a folder with adapter_config.json and adapter_model.safetensors
// (https://huggingface.co/docs/peft/developer_guides/checkpoint).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/context.h"
#include "models/adapter.h"
#include "models/model.h"

namespace weft {

class CheckpointReader;

/// An adapter folder whose config was read and whose weights were opened.
struct OpenedAdapter {
  std::string path;
  std::string base_model;             // base_model_name_or_path: what it says it was trained on
  LoraOptions options;                // target_modules and layers are those that the weights file holds
  std::vector<std::string> replaced;  // parameters of the model that the file holds whole (modules_to_save: norms)
  std::shared_ptr<const CheckpointReader> reader;
};

/// Throws Error(bad_input) for what is no LoRA adapter or asks for what Weft does not do (DoRA, biases, rank patterns,
/// …), saying which.
OpenedAdapter open_adapter(const std::string& folder);

/// Declares an adapter on a model and reads this rank's slices, also of the parameters that it replaces: the model's
/// stay as they are until Adapter::replace_parameters. Throws Error(bad_input) when it does not fit the model.
std::unique_ptr<Adapter> read_adapter(const Context& context,
                                      LanguageModel& model,
                                      const OpenedAdapter& opened,
                                      DType dtype);

/// The same on a model with its weights (row-major), whose replaced parameters are overwritten.
std::unique_ptr<Adapter> load_adapter(const Context& context,
                                      LanguageModel& model,
                                      const OpenedAdapter& opened,
                                      DType dtype);

/// Reads the values of an adapter that was declared; allocates those that are not there yet in `dtype`.
void read_adapter_weights(const Context& context, const OpenedAdapter& opened, Adapter& adapter, DType dtype);

/// This rank's slices of the parameters that an adapter replaces, in the dtype of the model's.
std::vector<ReplacedParameter> read_replaced(const Context& context,
                                             const OpenedAdapter& opened,
                                             LanguageModel& model,
                                             DType dtype);

/// Tensor names in the file: "base_model.model.NAME.lora_A.weight"; "base_model.model.NAME" for another trained
/// parameter.
std::string adapter_tensor_name(const std::string& parameter_name);

/// adapter_config.json of an adapter of these parameters. `whole_parameters` are names of parameters of the model that
/// are saved with it (norms); `model` says which of PEFT's tasks it is for.
std::string adapter_config_json(const LoraOptions& options,
                                const ParameterStore& parameters,
                                const std::vector<std::string>& whole_parameters,
                                const std::string& base_model,
                                const ModelInfo& model);

/// The task's layer that was trained beside an adapter; of kind none without one.
TaskHead adapter_task_head(const std::string& folder);
/// What the model's config has to say for an adapter: of its task's layer, of what its norms take. A JSON object, or
/// empty.
std::string adapter_overrides(const std::string& folder);

}  // namespace weft
