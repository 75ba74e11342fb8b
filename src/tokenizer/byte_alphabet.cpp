#include "tokenizer/byte_alphabet.h"

#include <array>

#include "tokenizer/unicode.h"

namespace weft {

namespace {

constexpr int kAlphabetEnd = 0x144;

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> kByteToCharacter = [] {
  std::array<char32_t, 256> table{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) table[byte] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  return table;
}();

constexpr std::array<int, kAlphabetEnd> kCharacterToByte = [] {
  std::array<int, kAlphabetEnd> table{};
  for (int& byte : table) byte = -1;
  for (int byte = 0; byte < 256; ++byte) table[kByteToCharacter[byte]] = byte;
  return table;
}();

}  // namespace

char32_t byte_to_alphabet(unsigned char byte) {
  return kByteToCharacter[byte];
}

int alphabet_to_byte(char32_t character) {
  return character < kAlphabetEnd ? kCharacterToByte[character] : -1;
}

void append_alphabet(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) append_utf8(byte_to_alphabet(static_cast<unsigned char>(byte)), out);
}

void append_alphabet_bytes(std::string_view token, std::string& out) {
  const size_t begin = out.size();
  const char* position = token.data();
  const char* end = position + token.size();
  while (position < end) {
    const int byte = alphabet_to_byte(next_character(position));
    if (byte < 0) {
      out.resize(begin);
      out.append(token);
      return;
    }
    out.push_back(static_cast<char>(byte));
  }
}

}  // namespace weft
