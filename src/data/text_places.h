// Places in texts: characters (code points) and bytes.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

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

}  // namespace weft
