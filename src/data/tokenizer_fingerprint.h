// What tells tokenizers apart.
#pragma once

#include <cstdint>

#include "tokenizer/tokenizer.h"

namespace weft {

/// Hash of the vocabulary and of the ids of a few texts: equal for the same tokenizer from different files, such as
/// tokenizer.json and .gguf. Never 0.
uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer);

}  // namespace weft
