// train_state.json
#pragma once

#include <string>

#include "training_checkpoint/training_checkpoint.h"

namespace weft {

std::string train_state_json(const TrainState& state);

/// Throws Error(bad_input) for a file that is missing or damaged.
TrainState read_train_state(const std::string& folder);

}  // namespace weft
