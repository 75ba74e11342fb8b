// Hugging Face's tokenizer.json (format: the `tokenizers` library's serialisation).
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/pipeline_tokenizer.h"

namespace weft {

/// The tokenizer that the text describes; bos, end ids and chat template are not in such a file and are left unset.
/// Throws Error(bad_input) naming `where`.
PipelineParts read_tokenizer_json(std::string_view text, const std::string& where);

}  // namespace weft
