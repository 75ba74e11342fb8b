// The rows that `weft plan --train` counts with.
#pragma once

#include <memory>

#include "config/run_config.h"
#include "data/training_data.h"
#include "models/model.h"

namespace weft {

/// Rows of the config's task as full as they get: every text has data.sequence_length tokens. Of prompts and
/// completions each has half of them.
std::unique_ptr<TrainingData> planned_rows(const RunConfig& source, const ModelInfo& model);

}  // namespace weft
