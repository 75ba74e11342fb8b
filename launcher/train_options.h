// A config's messages as the options of the layers that do the work. The config is a checked one (check_run_config).
#pragma once

#include "core/dtype.h"
#include "data/training_data.h"
#include "models/adapter.h"
#include "models/registry.h"
#include "optimizer/optimizer.h"
#include "optimizer/schedule.h"
#include "train/engine.h"

namespace weft {

namespace config {
class RunConfig;
}

/// What weights and activations are kept in.
DType compute_dtype(const config::RunConfig& config);

ModelOptions model_options(const config::RunConfig& config);

/// Fields of a config, FIELD=VALUE, that name the model as flags do.
std::vector<std::string> model_fields(const ModelOptions& model);

/// What frozen weights are kept in beside an adapter.
Quantization quantization_of(const config::RunConfig& config);

/// The adapter; only with `lora`.
LoraOptions lora_options(const config::RunConfig& config);

OptimizerOptions optimizer_options(const config::RunConfig& config);

/// train.steps, or the steps that train.epochs take when an epoch has so many rows (at least one).
int64_t total_steps(const config::RunConfig& config, int64_t rows_per_epoch);

ScheduleOptions schedule_options(const config::RunConfig& config, int64_t num_steps);

EngineOptions engine_options(const config::RunConfig& config);

/// Paths are the config's; text among them is prepared first by the caller.
TrainingDataOptions training_data_options(const config::RunConfig& config);

/// evaluation.sources with data's sequence length and packing, in order.
TrainingDataOptions evaluation_data_options(const config::RunConfig& config);

}  // namespace weft
