// What a RunConfig holds.
#pragma once

#include <string>

#include "config/run.pb.h"
#include "config/run_config.h"
#include "config/text_reader.h"

namespace weft {

struct RunConfig::State {
  std::string file;
  config::RunConfig message;
  FieldLocations locations;
};

}  // namespace weft
