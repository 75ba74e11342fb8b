// --set FIELD=VALUE.
#pragma once

#include <string>

#include "config/text_reader.h"

namespace weft {

/// Applies one override ("train.steps=5"; all forms: load_run_config) and records "--set FIELD" as the place of what it
/// sets. Throws Error(bad_input), one line that begins with that.
void apply_override(const std::string& text, google::protobuf::Message& message, FieldLocations& locations);

}  // namespace weft
