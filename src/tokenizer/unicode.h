// UTF-8 and the character classes that pre-tokenizers and normalizers ask for (Unicode data: utf8proc).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace weft {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

enum class Utf8Status : uint8_t { valid, invalid, incomplete };

/// One character of arbitrary bytes. An invalid sequence's `length` is that of its maximal subpart (Unicode,
/// chapter 3.9), for which one U+FFFD stands; `incomplete` means that the text ends inside a character that could still
/// become valid.
struct Utf8Character {
  char32_t value = 0;
  int length = 0;
  Utf8Status status = Utf8Status::valid;
};

Utf8Character read_utf8(std::string_view text);

bool is_valid_utf8(std::string_view text);

/// Appends `text` with each invalid sequence replaced by U+FFFD.
void append_lossy_utf8(std::string_view text, std::string& out);

void append_utf8(char32_t character, std::string& out);

/// Bytes that come in parts as lossy UTF-8: what could still become a character is held back.
class Utf8Joiner {
 public:
  void push(std::string_view bytes, std::string& out);
  /// Gives what was held back.
  void finish(std::string& out);

 private:
  size_t incomplete_tail() const;

  std::string bytes_;
};

/// Decodes one character of valid UTF-8 and advances `position` past it.
inline char32_t next_character(const char*& position) {
  const auto byte = [&](int index) { return static_cast<char32_t>(static_cast<unsigned char>(position[index])); };
  const char32_t first = byte(0);
  if (first < 0x80) {
    position += 1;
    return first;
  }
  if (first < 0xE0) {
    const char32_t character = (first & 0x1F) << 6 | (byte(1) & 0x3F);
    position += 2;
    return character;
  }
  if (first < 0xF0) {
    const char32_t character = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    position += 3;
    return character;
  }
  const char32_t character = (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  position += 4;
  return character;
}

/// Start of the character that ends before `position`; `begin` < `position`, valid UTF-8.
inline const char* previous_character(const char* begin, const char* position) {
  do {
    --position;
  } while (position > begin && (static_cast<unsigned char>(*position) & 0xC0) == 0x80);
  return position;
}

/// Length of the extended grapheme cluster (Unicode annex 29) that valid UTF-8, which is not empty, starts with.
size_t grapheme_length(std::string_view text);

/// \p{L}, \p{N}, \s (White_Space) or none of them: the classes of the byte-level BPE patterns.
enum class CharacterClass : uint8_t { letter, number, space, other };

CharacterClass wide_character_class(char32_t character);

inline constexpr std::array<CharacterClass, 128> kAsciiClass = [] {
  std::array<CharacterClass, 128> table{};
  for (int c = 0; c < 128; ++c) {
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool is_space = c == ' ' || (c >= 9 && c <= 13);
    table[c] = is_letter              ? CharacterClass::letter
               : c >= '0' && c <= '9' ? CharacterClass::number
               : is_space             ? CharacterClass::space
                                      : CharacterClass::other;
  }
  return table;
}();

inline CharacterClass character_class(char32_t character) {
  return character < 128 ? kAsciiClass[character] : wide_character_class(character);
}

inline bool is_space(char32_t character) {
  return character_class(character) == CharacterClass::space;
}
/// General category N (Rust's char::is_numeric).
inline bool is_number(char32_t character) {
  return character_class(character) == CharacterClass::number;
}
/// ASCII punctuation or general category P.
bool is_punctuation(char32_t character);
/// General category M.
bool is_mark(char32_t character);
/// \w of Unicode regular expressions: letters, marks, decimal and letter numbers, connector punctuation.
bool is_word_character(char32_t character);

}  // namespace weft
