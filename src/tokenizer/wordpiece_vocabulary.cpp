#include "tokenizer/wordpiece_vocabulary.h"

#include <algorithm>
#include <fstream>

#include "core/error.h"
#include "tokenizer/bert_text.h"
#include "tokenizer/text_file.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace weft {

namespace {

constexpr size_t kMaxTokens = size_t{1} << 22;
constexpr size_t kMaxTokenBytes = 1024;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// The text up to the first white space that follows something else. A line of nothing but exotic white space is a
/// token of its own: published vocabularies have some.
std::string_view token_of_line(std::string_view line) {
  const char* end = line.data() + line.size();
  const char* begin = line.data();
  while (begin < end) {
    const char* next = begin;
    if (!is_space(next_character(next))) break;
    begin = next;
  }
  if (begin == end) return line.find_first_not_of(" \t\r\v\f") == std::string_view::npos ? std::string_view() : line;
  const char* token_end = begin;
  while (token_end < end) {
    const char* next = token_end;
    if (is_space(next_character(next))) break;
    token_end = next;
  }
  return {begin, static_cast<size_t>(token_end - begin)};
}

std::string_view checked_token(std::string_view line, size_t number, const std::string& where) {
  if (line.size() > kMaxTokenBytes) {
    fail_input("{}: line {} has {} bytes, expected at most {}; is this a vocabulary with a token a line?",
               where,
               number,
               line.size(),
               kMaxTokenBytes);
  }
  if (!is_valid_utf8(line)) {
    fail_input("{}: line {} is not valid UTF-8: '{}'; is this a vocabulary?", where, number, printable(line, 40));
  }
  return token_of_line(line);
}

/// Whether a token only repeats what its characters say.
bool is_redundant(std::string_view token) {
  const char* end = token.data() + token.size();
  const char* position = token.data();
  if (token.empty()) return false;
  next_character(position);
  if (position == end) return false;
  position = token.data() + (token.starts_with("##") ? 2 : 0);
  while (position < end) {
    const char32_t character = next_character(position);
    if (is_chinese_character(character) || is_punctuation(character)) return true;
  }
  return false;
}

}  // namespace

WordPieceVocabulary parse_wordpiece_vocabulary(std::string_view text, const std::string& where) {
  WordPieceVocabulary vocabulary{.where = where, .tokens = {}};
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  StringTable lines;
  while (!text.empty()) {
    const size_t number = vocabulary.tokens.size() + 1;
    if (number > kMaxTokens) fail_input("{}: more than {} lines; is this a vocabulary?", where, kMaxTokens);
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const std::string_view token = checked_token(line, number, where);
    vocabulary.tokens.emplace_back(token);
    if (token.empty()) continue;
    if (const int32_t first = lines.find(token); first >= 0) {
      fail_input("{}: token '{}' stands in line {} and again in line {}; each may occur once, for its line is its id",
                 where,
                 printable(token),
                 first,
                 number);
    }
    lines.set(token, static_cast<int32_t>(number));
  }
  if (lines.size() == 0) fail_input("{}: no tokens, expected one a line; is the file complete?", where);
  return vocabulary;
}

WordPieceVocabulary read_wordpiece_vocabulary(const std::string& path) {
  return parse_wordpiece_vocabulary(read_whole_file(path), path);
}

SimplifiedVocabulary simplify_vocabulary(const WordPieceVocabulary& vocabulary,
                                         const std::vector<std::string>& startswith) {
  StringTable ids(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) ids.set(vocabulary.tokens[id], static_cast<int32_t>(id));
  SimplifiedVocabulary simplified;
  std::vector<bool> is_kept(vocabulary.tokens.size());
  const auto keep = [&](size_t id) {
    if (is_kept[id]) return;
    is_kept[id] = true;
    simplified.tokens.push_back(vocabulary.tokens[id]);
    simplified.keep_tokens.push_back(static_cast<int32_t>(id));
  };
  for (const std::string& token : startswith) {
    const int32_t id = ids.find(token);
    if (id < 0) {
      fail_input(
          "{}: no token '{}', with which the simplified vocabulary should begin", vocabulary.where, printable(token));
    }
    keep(static_cast<size_t>(id));
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!is_redundant(vocabulary.tokens[id])) keep(id);
  }
  return simplified;
}

void save_vocab(const std::vector<std::string>& tokens, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  for (const std::string& token : tokens) file << token << '\n';
  file.close();
  if (!file) fail_input("{}: cannot be written; is there the folder, the right and the space?", path);
}

bool is_bracketed(std::string_view token) {
  return token.size() >= 2 && token.front() == '[' && token.back() == ']';
}

}  // namespace weft
