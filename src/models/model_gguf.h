// A model's config and tokenizer as the metadata of a GGUF file, so that llama.cpp opens what Weft writes.
#pragma once

#include "checkpoint/gguf_writer.h"
#include "models/registry.h"

namespace weft {

/// For matrices of `dtype`. Throws Error(bad_input) where the format has no place for what the model or its tokenizer
/// is.
GgufEntries gguf_entries(const OpenedModel& opened, DType dtype);

}  // namespace weft
