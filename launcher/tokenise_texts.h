// Texts as encoders take them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generate/sentence_encoder.h"
#include "launcher/common.h"

namespace weft {

/// Token ids, on all ranks, of the texts that rank 0 has, special tokens included. Longer ones are cut to `limit`
/// tokens, which a warning counts; 0: none is. Rank 0 must have the tokenizer.
std::vector<TokenisedText> tokenise_texts(const InferenceModel& loaded,
                                          const std::vector<std::string>& texts,
                                          int64_t limit);

}  // namespace weft
