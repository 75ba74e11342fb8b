#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstring>

namespace weft {

namespace {

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

struct LeadByte {
  int length = 0;  // 0: cannot start a character
  unsigned char second_low = 0x80;
  unsigned char second_high = 0xBF;
};

/// Unicode table 3-7: the second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
LeadByte lead_byte(unsigned char byte) {
  if (byte < 0x80) return {.length = 1};
  if (byte < 0xC2) return {.length = 0};
  if (byte < 0xE0) return {.length = 2};
  if (byte == 0xE0) return {.length = 3, .second_low = 0xA0};
  if (byte == 0xED) return {.length = 3, .second_high = 0x9F};
  if (byte < 0xF0) return {.length = 3};
  if (byte == 0xF0) return {.length = 4, .second_low = 0x90};
  if (byte < 0xF4) return {.length = 4};
  if (byte == 0xF4) return {.length = 4, .second_high = 0x8F};
  return {.length = 0};
}

utf8proc_category_t category(char32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}

size_t ascii_prefix(std::string_view text) {
  size_t length = 0;
  while (length + 8 <= text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + length, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
    length += 8;
  }
  while (length < text.size() && static_cast<unsigned char>(text[length]) < 0x80) ++length;
  return length;
}

/// Length of the longest prefix that is valid UTF-8.
size_t valid_prefix(std::string_view text) {
  size_t position = 0;
  while (true) {
    position += ascii_prefix(text.substr(position));
    while (position < text.size() && static_cast<unsigned char>(text[position]) >= 0x80) {
      const Utf8Character character = read_utf8(text.substr(position));
      if (character.status != Utf8Status::valid) return position;
      position += static_cast<size_t>(character.length);
    }
    if (position >= text.size()) return position;
  }
}

}  // namespace

Utf8Character read_utf8(std::string_view text) {
  if (text.empty()) return {.value = 0, .length = 0, .status = Utf8Status::incomplete};
  const auto byte = [&](size_t index) { return static_cast<unsigned char>(text[index]); };
  const LeadByte lead = lead_byte(byte(0));
  if (lead.length == 0) return {.value = 0, .length = 1, .status = Utf8Status::invalid};
  for (int i = 1; i < lead.length; ++i) {
    if (text.size() <= static_cast<size_t>(i)) return {.value = 0, .length = i, .status = Utf8Status::incomplete};
    const bool fits = i == 1 ? byte(1) >= lead.second_low && byte(1) <= lead.second_high
                             : is_continuation(byte(static_cast<size_t>(i)));
    if (!fits) return {.value = 0, .length = i, .status = Utf8Status::invalid};
  }
  const char* position = text.data();
  return {.value = next_character(position), .length = lead.length, .status = Utf8Status::valid};
}

bool is_valid_utf8(std::string_view text) {
  return valid_prefix(text) == text.size();
}

void append_lossy_utf8(std::string_view text, std::string& out) {
  while (!text.empty()) {
    const size_t valid = valid_prefix(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) return;
    out.append(kReplacementCharacter);
    text.remove_prefix(static_cast<size_t>(read_utf8(text).length));
  }
}

void append_utf8(char32_t character, std::string& out) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0 | character >> 6);
    put(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    put(0xE0 | character >> 12);
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  } else {
    put(0xF0 | character >> 18);
    put(0x80 | (character >> 12 & 0x3F));
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  }
}

void Utf8Joiner::push(std::string_view bytes, std::string& out) {
  bytes_.append(bytes);
  const size_t held = incomplete_tail();
  append_lossy_utf8(std::string_view(bytes_).substr(0, bytes_.size() - held), out);
  bytes_.erase(0, bytes_.size() - held);
}

void Utf8Joiner::finish(std::string& out) {
  append_lossy_utf8(bytes_, out);
  bytes_.clear();
}

size_t Utf8Joiner::incomplete_tail() const {
  for (size_t length = 1; length <= 3 && length <= bytes_.size(); ++length) {
    const std::string_view tail = std::string_view(bytes_).substr(bytes_.size() - length);
    if (read_utf8(tail).status == Utf8Status::incomplete) return length;
    if ((static_cast<unsigned char>(tail[0]) & 0xC0) != 0x80) break;
  }
  return 0;
}

size_t grapheme_length(std::string_view text) {
  const char* position = text.data();
  const char* end = position + text.size();
  auto character = static_cast<utf8proc_int32_t>(next_character(position));
  utf8proc_int32_t state = 0;
  while (position < end) {
    const char* next = position;
    const auto following = static_cast<utf8proc_int32_t>(next_character(next));
    if (utf8proc_grapheme_break_stateful(character, following, &state)) break;
    character = following;
    position = next;
  }
  return static_cast<size_t>(position - text.data());
}

CharacterClass wide_character_class(char32_t character) {
  switch (category(character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharacterClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharacterClass::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharacterClass::space;
    default:
      return character == 0x85 ? CharacterClass::space : CharacterClass::other;
  }
}

bool is_punctuation(char32_t character) {
  if (character < 0x80) {
    return (character > 0x20 && character < '0') || (character > '9' && character < 'A') ||
           (character > 'Z' && character < 'a') || (character > 'z' && character < 0x7F);
  }
  const utf8proc_category_t kind = category(character);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_mark(char32_t character) {
  const utf8proc_category_t kind = category(character);
  return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

bool is_word_character(char32_t character) {
  const utf8proc_category_t kind = category(character);
  return (kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NL) || kind == UTF8PROC_CATEGORY_PC;
}

}  // namespace weft
