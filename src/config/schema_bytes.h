// The schema inside the program.
#pragma once

#include <string_view>

namespace weft {

/// run.proto compiled, with its comments: a serialised google.protobuf.FileDescriptorSet.
std::string_view schema_bytes();

}  // namespace weft
