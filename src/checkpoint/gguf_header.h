// The part of a GGUF file before its tensors, shared by the metadata reader and the tensor reader.
#pragma once

#include <cstdint>

#include "checkpoint/file.h"
#include "checkpoint/gguf.h"

namespace weft {

/// Parses magic, version, counts and every metadata value from the file's start, leaves the cursor at the first
/// tensor's entry and returns the number of tensors that the file claims. `metadata.path` is set by the caller.
uint64_t parse_gguf_metadata(FileCursor& cursor, GgufMetadata& metadata);

}  // namespace weft
