// Tokens that are found in the text itself before the model sees it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool is_special = false;     // left out of decoded text on request
  bool single_word = false;    // only between word borders
  bool lstrip = false;         // takes the white space before it
  bool rstrip = false;         // takes the white space after it
  bool is_normalized = false;  // looked for in the normalized text instead of the raw one
};

/// Finds the leftmost token, the longest of those that start there. Immutable.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() { root_.fill(-1); }
  /// Throws Error(bad_input) naming `where` for a token too long to look for.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens, const std::string& where);

  bool empty() const { return tokens_.empty(); }

  /// Length of the longest token that the text starts with; 0: none.
  size_t longest_at_start(std::string_view text) const;

  /// Calls on_text(begin, end) for each stretch without token that is not empty, and on_token(id, begin, end) for
  /// each token, in order.
  template <typename OnText, typename OnToken>
  void split(std::string_view text, const OnText& on_text, const OnToken& on_token) const {
    size_t text_begin = 0;
    for (size_t position = 0; position < text.size();) {
      const Match match = tokens_.empty() ? Match{} : find(text, position);
      if (match.token == nullptr) break;
      position = match.end;
      if (match.token->single_word && !stands_alone(text, match)) continue;
      const size_t begin = match.token->lstrip ? strip_back(text, text_begin, match.begin) : match.begin;
      const size_t end = match.token->rstrip ? strip_forward(text, match.end) : match.end;
      if (begin > text_begin) on_text(text_begin, begin);
      on_token(match.token->id, begin, end);
      text_begin = end;
      position = end;
    }
    if (text_begin < text.size()) on_text(text_begin, text.size());
  }

 private:
  struct Node {
    int32_t first_child = -1;
    int32_t next_sibling = -1;
    int32_t token = -1;
    char byte = 0;
  };
  struct Match {
    const AddedToken* token = nullptr;
    size_t begin = 0;
    size_t end = 0;
  };

  void insert(std::string_view content, int32_t token);
  int32_t child(int32_t node, char byte) const;
  Match find_at(std::string_view text, size_t begin) const;
  Match find(std::string_view text, size_t from) const;
  static bool stands_alone(std::string_view text, const Match& match);
  static size_t strip_back(std::string_view text, size_t limit, size_t position);
  static size_t strip_forward(std::string_view text, size_t position);

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> root_{};  // node of each first byte; -1: none
};

}  // namespace weft
