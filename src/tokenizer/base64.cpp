#include "tokenizer/base64.h"

#include <array>
#include <cstdint>

namespace weft {

namespace {

constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<int8_t, 256> kValueOfLetter = [] {
  std::array<int8_t, 256> table{};
  table.fill(-1);
  for (size_t i = 0; i < kLetters.size(); ++i) {
    table[static_cast<unsigned char>(kLetters[i])] = static_cast<int8_t>(i);
  }
  return table;
}();

}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char letter : text) {
    const int8_t value = kValueOfLetter[static_cast<unsigned char>(letter)];
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    bytes.push_back(static_cast<char>(bits >> num_bits));
    bits &= (1U << num_bits) - 1;
  }
  // Bits that are left over must be padding: fewer than a letter's, and zero.
  if (num_bits >= 6 || bits != 0) return std::nullopt;
  return bytes;
}

std::string encode_base64(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char byte : bytes) {
    bits = (bits & 0x3FU) << 8 | static_cast<unsigned char>(byte);
    for (num_bits += 8; num_bits >= 6; num_bits -= 6) text.push_back(kLetters[bits >> (num_bits - 6) & 0x3FU]);
  }
  if (num_bits > 0) text.push_back(kLetters[bits << (6 - num_bits) & 0x3FU]);
  text.resize((text.size() + 3) / 4 * 4, '=');
  return text;
}

}  // namespace weft
