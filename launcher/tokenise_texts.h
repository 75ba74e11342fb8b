// Texts as encoders take them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "generate/sentence_encoder.h"
#include "launcher/common.h"

namespace weft {

/// A text, or a pair of them.
struct TextOrPair {
  std::string_view first;
  std::optional<std::string_view> second;
};

/// Of a line: the first tab in it parts two texts. Refers to the line.
TextOrPair split_at_tab(std::string_view line);

/// Token ids and segments, on all ranks, of the lines that rank 0 has, a text or a pair each, special tokens included.
/// Longer ones are cut to `limit` tokens, which a warning counts; 0: none is. Rank 0 must have the tokenizer.
std::vector<TokenisedText> tokenise_lines(const InferenceModel& loaded,
                                          const std::vector<std::string>& lines,
                                          int64_t limit);

}  // namespace weft
