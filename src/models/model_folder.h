// What stands beside the weights in a Hugging Face folder, so that other programs open what Weft writes.
#pragma once

#include <string>

#include "core/dtype.h"
#include "models/registry.h"

namespace weft {

/// config.json for weights of `dtype`: a Hugging Face folder's own, or made from what the model was read as. Throws
/// Error(bad_input) for what it cannot express.
std::string model_config_json(const OpenedModel& opened, DType dtype);

/// Writes the config of a format, under the name that the format's programs look for, and copies the tokenizer's files,
/// those that lie in `tokenizer` (a folder or a file in it; empty: the model's). From a GGUF file its metadata, which
/// hold the tokenizer, become tokenizer.gguf. Where the overrides have "sentence", {"pooling", "max_length"},
/// sentence-transformers' files too. Throws Error(bad_input) where no config of that format can be made.
void write_model_files(const OpenedModel& opened,
                       ModelFormat format,
                       DType dtype,
                       const std::string& tokenizer,
                       const std::string& folder);

}  // namespace weft
