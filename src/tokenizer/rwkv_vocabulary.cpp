#include "tokenizer/rwkv_vocabulary.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace weft {

namespace {

// The World vocabulary ends at 65,535.
constexpr int64_t kMaxId = (int64_t{1} << 20) - 1;
// The time for a byte of text grows with it; the World vocabulary's longest token has 128 bytes.
constexpr int64_t kMaxTokenBytes = 1024;
// Four bytes of a token may be written in ten characters.
constexpr size_t kMaxLineBytes = 16 * kMaxTokenBytes;
// The trie counts its nodes in 24 bits; the World vocabulary has 0.5 MB.
constexpr size_t kMaxVocabularyBytes = 8'000'000;
constexpr std::string_view kDigits = "0123456789";

std::optional<char32_t> take_hexadecimal(std::string_view& rest, size_t num_digits) {
  if (rest.size() < num_digits) return std::nullopt;
  uint32_t value = 0;
  const char* end = rest.data() + num_digits;
  if (std::from_chars(rest.data(), end, value, 16).ptr != end) return std::nullopt;
  rest.remove_prefix(num_digits);
  return value;
}

/// Appends what the escape stands for whose backslash has been taken.
bool take_escape(std::string_view& rest, bool is_bytes, std::string& token) {
  if (rest.empty()) return false;
  const char kind = rest.front();
  rest.remove_prefix(1);
  constexpr std::string_view kSimple = "\\\\''\"\"n\nr\rt\t";
  for (size_t i = 0; i < kSimple.size(); i += 2) {
    if (kSimple[i] != kind) continue;
    token.push_back(kSimple[i + 1]);
    return true;
  }
  if (kind != 'x' && (is_bytes || (kind != 'u' && kind != 'U'))) return false;
  const auto character = take_hexadecimal(rest, kind == 'x' ? 2 : kind == 'u' ? 4 : 8);
  const bool is_surrogate = character >= 0xD800 && character <= 0xDFFF;
  if (!character || *character > 0x10FFFF || is_surrogate) return false;
  if (is_bytes) {
    token.push_back(static_cast<char>(*character));
  } else {
    append_utf8(*character, token);
  }
  return true;
}

/// What a Python literal of str or bytes stands for; nothing for what is none.
std::optional<std::string> read_literal(std::string_view literal) {
  const bool is_bytes = literal.starts_with('b');
  if (is_bytes) literal.remove_prefix(1);
  if (literal.size() < 2 || literal.front() != literal.back()) return std::nullopt;
  const char quote = literal.front();
  if (quote != '\'' && quote != '"') return std::nullopt;
  std::string_view rest = literal.substr(1, literal.size() - 2);
  std::string token;
  while (!rest.empty()) {
    const char byte = rest.front();
    rest.remove_prefix(1);
    if (byte == '\\') {
      if (!take_escape(rest, is_bytes, token)) return std::nullopt;
      continue;
    }
    const bool is_allowed = byte != quote && !(is_bytes && static_cast<unsigned char>(byte) >= 0x80);
    if (!is_allowed) return std::nullopt;
    token.push_back(byte);
  }
  return token;
}

std::optional<int64_t> read_number(std::string_view digits) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool is_whole = !digits.empty() && digits.front() != '-' && end == digits.data() + digits.size();
  return is_whole && error == std::errc() ? std::optional(number) : std::nullopt;
}

struct Entry {
  int64_t id = 0;
  std::string token;
};

Entry read_line(std::string_view line, size_t number, const std::string& where) {
  const size_t first_space = line.find(' ');
  const size_t last_space = line.rfind(' ');
  if (line.size() > kMaxLineBytes || first_space == last_space || !is_valid_utf8(line)) {
    fail_input("{}: line {} should be ID LITERAL LENGTH, found '{}'; is this RWKV's vocabulary?",
               where,
               number,
               printable(line, 40));
  }
  const std::optional<int64_t> id = read_number(line.substr(0, first_space));
  if (!id || *id < 1 || *id > kMaxId) {
    fail_input("{}: line {} has id '{}', expected 1 to {} (0 ends texts and has no token)",
               where,
               number,
               printable(line.substr(0, first_space), 40),
               kMaxId);
  }
  const std::string_view literal = line.substr(first_space + 1, last_space - first_space - 1);
  std::optional<std::string> token = read_literal(literal);
  if (!token) {
    fail_input("{}: line {}: {} is not a Python literal of str or bytes that Weft reads",
               where,
               number,
               printable(literal, 80));
  }
  const std::string_view length = line.substr(last_space + 1);
  if (read_number(length) != static_cast<int64_t>(token->size())) {
    fail_input("{}: line {}: the token {} has {} bytes, but its length is written as '{}'",
               where,
               number,
               printable(literal, 80),
               token->size(),
               printable(length, 40));
  }
  if (token->empty() || token->size() > kMaxTokenBytes) {
    fail_input("{}: line {}: a token of {} bytes, expected 1 to {}", where, number, token->size(), kMaxTokenBytes);
  }
  return {.id = *id, .token = std::move(*token)};
}

std::string_view take_line(std::string_view& text) {
  std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

}  // namespace

RwkvVocabulary parse_rwkv_vocabulary(std::string_view text, const std::string& where) {
  RwkvVocabulary vocabulary{.where = where, .tokens = {}};
  StringTable lines;                 // of each token
  std::vector<uint32_t> line_of_id;  // 0: none
  size_t num_bytes = 0;
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.empty() && text.empty()) break;
    Entry entry = read_line(line, number, where);
    const auto id = static_cast<size_t>(entry.id);
    if (id >= vocabulary.tokens.size()) {
      vocabulary.tokens.resize(id + 1);
      line_of_id.resize(id + 1);
    }
    if (line_of_id[id] != 0) {
      fail_input("{}: id {} stands in line {} and again in line {}", where, id, line_of_id[id], number);
    }
    if (const int32_t first = lines.find(entry.token); first >= 0) {
      fail_input("{}: the token of line {} ('{}') stands in line {} already",
                 where,
                 number,
                 printable(entry.token, 40),
                 first);
    }
    num_bytes += entry.token.size();
    if (num_bytes > kMaxVocabularyBytes) {
      fail_input("{}: more than {} bytes of tokens in line {}; is this RWKV's vocabulary?",
                 where,
                 kMaxVocabularyBytes,
                 number);
    }
    lines.set(entry.token, static_cast<int32_t>(number));
    line_of_id[id] = static_cast<uint32_t>(number);
    vocabulary.tokens[id] = std::move(entry.token);
  }
  return vocabulary;
}

bool looks_like_rwkv_vocabulary(std::string_view text) {
  const size_t space = text.substr(0, 20).find_first_not_of(kDigits);
  if (space == 0 || space == std::string_view::npos || text[space] != ' ') return false;
  const std::string_view line = take_line(text);
  const size_t last_space = line.rfind(' ');
  const bool ends_with_length = last_space > space && last_space + 1 < line.size() &&
                                line.find_first_not_of(kDigits, last_space + 1) == std::string_view::npos;
  const std::string_view literal = line.substr(space + 1);
  return ends_with_length && (literal.starts_with('\'') || literal.starts_with('"') || literal.starts_with("b'") ||
                              literal.starts_with("b\""));
}

}  // namespace weft
