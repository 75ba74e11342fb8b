#include "tokenizer/added_tokens.h"

#include "core/error.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {
// The search costs at most this many steps a byte of text.
constexpr size_t kMaxContentBytes = 1024;
}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens, const std::string& where)
    : tokens_(std::move(tokens)) {
  root_.fill(-1);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (content.size() > kMaxContentBytes) {
      fail_input(
          "{}: added token {} has {} bytes; the limit is {}", where, tokens_[i].id, content.size(), kMaxContentBytes);
    }
    if (!content.empty()) insert(content, static_cast<int32_t>(i));
  }
}

void AddedTokenMatcher::insert(std::string_view content, int32_t token) {
  int32_t& root = root_[static_cast<unsigned char>(content[0])];
  if (root < 0) {
    root = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({.byte = content[0]});
  }
  int32_t node = root;
  for (const char byte : content.substr(1)) {
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({.next_sibling = nodes_[node].first_child, .byte = byte});
      nodes_[node].first_child = next;
    }
    node = next;
  }
  nodes_[node].token = token;
}

int32_t AddedTokenMatcher::child(int32_t node, char byte) const {
  int32_t next = nodes_[node].first_child;
  while (next >= 0 && nodes_[next].byte != byte) next = nodes_[next].next_sibling;
  return next;
}

AddedTokenMatcher::Match AddedTokenMatcher::find_at(std::string_view text, size_t begin) const {
  Match match;
  int32_t node = root_[static_cast<unsigned char>(text[begin])];
  for (size_t end = begin + 1; node >= 0; ++end) {
    if (const int32_t token = nodes_[node].token; token >= 0) match = {&tokens_[token], begin, end};
    node = end < text.size() ? child(node, text[end]) : -1;
  }
  return match;
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (root_[static_cast<unsigned char>(text[begin])] < 0) continue;
    if (const Match match = find_at(text, begin); match.token != nullptr) return match;
  }
  return {};
}

size_t AddedTokenMatcher::longest_at_start(std::string_view text) const {
  return text.empty() ? 0 : find_at(text, 0).end;
}

bool AddedTokenMatcher::stands_alone(std::string_view text, const Match& match) {
  if (match.begin > 0) {
    const char* before = previous_character(text.data(), text.data() + match.begin);
    if (is_word_character(next_character(before))) return false;
  }
  if (match.end == text.size()) return true;
  const char* after = text.data() + match.end;
  return !is_word_character(next_character(after));
}

size_t AddedTokenMatcher::strip_back(std::string_view text, size_t limit, size_t position) {
  while (position > limit) {
    const char* before = previous_character(text.data() + limit, text.data() + position);
    const char* next = before;
    if (!is_space(next_character(next))) break;
    position = static_cast<size_t>(before - text.data());
  }
  return position;
}

size_t AddedTokenMatcher::strip_forward(std::string_view text, size_t position) {
  while (position < text.size()) {
    const char* next = text.data() + position;
    if (!is_space(next_character(next))) break;
    position = static_cast<size_t>(next - text.data());
  }
  return position;
}

}  // namespace weft
