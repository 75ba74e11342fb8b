// Bytes written in the letters of base64 (RFC 4648).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace weft {

/// The bytes; nothing for a text that is not exactly the base64 of some: padded with '=', without line ends.
std::optional<std::string> decode_base64(std::string_view text);

std::string encode_base64(std::string_view bytes);

}  // namespace weft
