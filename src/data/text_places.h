// Places in texts: characters (code points) and bytes.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "tokenizer/token_span.h"

namespace weft {

/// The byte at which each character begins, and that of the end. A byte that begins no valid character counts as one.
inline std::vector<size_t> byte_places(std::string_view text) {
  std::vector<size_t> places;
  for (size_t byte = 0; byte < text.size(); ++byte) {
    bool goes_on = (static_cast<unsigned char>(text[byte]) & 0xC0) == 0x80;
    if (!goes_on || byte == 0) places.push_back(byte);
  }
  places.push_back(text.size());
  return places;
}

/// Without the ASCII white space at its ends, which tokens are spelled with; as it is where nothing else is in it.
inline TokenSpan without_outer_spaces(std::string_view text, const TokenSpan& span) {
  constexpr std::string_view kSpaces = " \t\r\n";
  const std::string_view part = text.substr(span.begin, span.end - span.begin);
  const size_t first = part.find_first_not_of(kSpaces);
  if (first == std::string_view::npos) return span;
  return {span.begin + first, span.begin + part.find_last_not_of(kSpaces) + 1};
}

}  // namespace weft
