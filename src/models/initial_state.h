// How a config says that a recurrent model's sequences start from learned states (state tuning).
#pragma once

#include <string>

#include "models/model.h"

namespace weft {

class ModelConfig;

/// Throws Error(bad_input) for keys of another type.
InitialState read_initial_state(const ModelConfig& config);

/// A JSON object with the keys that read_initial_state reads, to take the place of a config's; empty for zeros.
std::string initial_state_overrides(InitialState state);

}  // namespace weft
