#include "report/html_text.h"

namespace weft {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

/// Bytes of the UTF-8 character at the start of `text`, 0 if there is none (RFC 3629, 4).
size_t character_length(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return is_continuation(byte(1)) ? 2 : 0;
  bool has_three = is_continuation(byte(1)) && is_continuation(byte(2));
  if (first >= 0xE0 && first <= 0xEF) {
    bool is_overlong = first == 0xE0 && byte(1) < 0xA0;
    bool is_surrogate = first == 0xED && byte(1) > 0x9F;
    return has_three && !is_overlong && !is_surrogate ? 3 : 0;
  }
  if (first < 0xF0 || first > 0xF4) return 0;
  bool is_overlong = first == 0xF0 && byte(1) < 0x90;
  bool is_beyond = first == 0xF4 && byte(1) > 0x8F;
  return has_three && is_continuation(byte(3)) && !is_overlong && !is_beyond ? 4 : 0;
}

/// What stands for an ASCII character; empty: itself.
std::string_view replacement(char character) {
  switch (character) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&#39;";
    case '\n':
    case '\t':
      return {};
    default:
      return static_cast<unsigned char>(character) < 0x20 || character == 0x7F ? kReplacement : std::string_view();
  }
}

}  // namespace

std::string escape_html(std::string_view text, size_t limit) {
  std::string escaped;
  size_t place = 0;
  while (place < text.size() && place < limit) {
    size_t length = character_length(text.substr(place));
    std::string_view instead = length == 0 ? kReplacement : length == 1 ? replacement(text[place]) : std::string_view();
    escaped += instead.empty() ? text.substr(place, length) : instead;
    place += length == 0 ? 1 : length;
  }
  if (place < text.size()) escaped += "…";
  return escaped;
}

}  // namespace weft
