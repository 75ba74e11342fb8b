// Writing GGUF files, version 3 (format document: ggml's docs/gguf.md).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/gguf.h"
#include "checkpoint/writer.h"

namespace weft {

/// Metadata in the order in which it is written. Integers become uint32 (negative ones int32), in arrays int32; floats
/// become float32: the types that llama.cpp asks for.
using GgufEntries = std::vector<std::pair<std::string, GgufValue>>;

/// Tensors of f32, f16 and bf16.
std::unique_ptr<CheckpointWriter> make_gguf_writer(const std::string& path,
                                                   const GgufEntries& metadata,
                                                   const std::vector<OutputTensor>& tensors);

}  // namespace weft
