// KEY=VALUE in place of a model config's own keys: --model-set of the commands, model.set of training's configs.
#pragma once

#include <string>
#include <vector>

#include "models/model_config.h"

namespace weft {

/// A JSON object: `overrides`, one too or empty, with the settings in place of its own keys; empty where there are
/// neither. A VALUE is JSON, or else a text. Throws Error(usage) for a setting of another form.
std::string with_settings(const std::string& overrides, const std::vector<std::string>& settings);

/// Throws Error(usage) when a setting's key is none that a model of `family` asked its config for.
void check_settings(const ModelConfig& config, const std::string& family, const std::vector<std::string>& settings);

}  // namespace weft
