#include "tokenizer/split_pattern.h"

#include <cstddef>

#include "tokenizer/unicode.h"

namespace weft {

const std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

CharacterClass class_at(const char* position) {
  return character_class(next_character(position));
}

const char* skip_class(const char* position, const char* end, CharacterClass wanted) {
  while (position < end) {
    const auto byte = static_cast<unsigned char>(*position);
    if (byte < 0x80) {
      if (kAsciiClass[byte] != wanted) return position;
      ++position;
    } else {
      const char* next = position;
      if (character_class(next_character(next)) != wanted) return position;
      position = next;
    }
  }
  return position;
}

const char* skip_line_ends(const char* position, const char* end) {
  while (position < end && (*position == '\r' || *position == '\n')) ++position;
  return position;
}

/// Length of 's 't 're 've 'm 'll 'd after the apostrophe; 0 when there is none. Folding adds U+017F, whose upper case
/// is S.
template <bool kFoldsCase>
size_t contraction_length(const char* position, const char* end) {
  const auto letter = [&](std::ptrdiff_t index) -> char {
    if (end - position <= index) return 0;
    const char c = position[index];
    return kFoldsCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  switch (letter(0)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 1;
    case 'r':
    case 'v':
      return letter(1) == 'e' ? 2 : 0;
    case 'l':
      return letter(1) == 'l' ? 2 : 0;
    default:
      return kFoldsCase && letter(0) == '\xC5' && letter(1) == '\xBF' ? 2 : 0;
  }
}

/// `\s+(?!\S)|\s+`: a run leaves its last character to the word that follows, unless it is the only one.
const char* end_of_spaces(const char* begin, const char* end) {
  const char* run_end = skip_class(begin, end, CharacterClass::space);
  if (run_end == end) return end;
  const char* last = previous_character(begin, run_end);
  return last > begin ? last : run_end;
}

class Gpt2Scanner : public WordScanner {
 public:
  const char* next_word(const char* begin, const char* end) const override {
    if (*begin == '\'') {
      if (const size_t length = contraction_length<false>(begin + 1, end); length > 0) return begin + 1 + length;
    }
    const char* position = begin;
    if (*begin == ' ' && begin + 1 < end) ++position;
    const CharacterClass kind = class_at(position);
    if (kind == CharacterClass::space) return end_of_spaces(begin, end);
    return skip_class(position, end, kind);
  }
};

template <int kMaxDigits>
class Llama3Scanner : public WordScanner {
 public:
  const char* next_word(const char* begin, const char* end) const override {
    if (*begin == '\'') {
      if (const size_t length = contraction_length<true>(begin + 1, end); length > 0) return begin + 1 + length;
    }
    const char* position = begin;
    const CharacterClass kind = character_class(next_character(position));
    if (kind == CharacterClass::letter) return skip_class(position, end, kind);
    if (kind == CharacterClass::number) return end_of_digits(position, end);
    const CharacterClass next_kind = position < end ? class_at(position) : CharacterClass::space;
    if (next_kind == CharacterClass::letter && *begin != '\r' && *begin != '\n') {
      return skip_class(position, end, CharacterClass::letter);
    }
    if (kind == CharacterClass::other || (*begin == ' ' && next_kind == CharacterClass::other)) {
      return skip_line_ends(skip_class(position, end, CharacterClass::other), end);
    }
    return end_of_lines_or_spaces(begin, end);
  }

 private:
  static const char* end_of_digits(const char* position, const char* end) {
    for (int digits = 1; digits < kMaxDigits && position < end; ++digits) {
      const char* next = position;
      if (character_class(next_character(next)) != CharacterClass::number) break;
      position = next;
    }
    return position;
  }

  /// `\s*[\r\n]+|\s+(?!\S)|\s+`: up to the run's last line end if it has one.
  static const char* end_of_lines_or_spaces(const char* begin, const char* end) {
    const char* run_end = skip_class(begin, end, CharacterClass::space);
    for (const char* position = run_end; position > begin; --position) {
      if (position[-1] == '\r' || position[-1] == '\n') return position;
    }
    return end_of_spaces(begin, end);
  }
};

}  // namespace

std::unique_ptr<WordScanner> make_word_scanner(std::string_view pattern) {
  if (pattern == kGpt2Pattern) return std::make_unique<Gpt2Scanner>();
  if (pattern == kLlama3Pattern) return std::make_unique<Llama3Scanner<3>>();
  if (pattern == kQwen2Pattern) return std::make_unique<Llama3Scanner<1>>();
  return nullptr;
}

}  // namespace weft
