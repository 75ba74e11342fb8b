// Sentencepiece's normalization of a text: replacements by table, spaces as U+2581, one of them put first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/normalizer.h"

namespace weft {

/// The table inside a model (precompiled_charsmap): a double-array trie in Darts-clone's layout of the strings to
/// replace, then the replacements, each ended by a zero byte.
class Charsmap {
 public:
  /// Proves that no walk through the trie can leave the table, whatever the text. Throws Error(bad_input) naming
  /// `where`.
  Charsmap(std::string_view bytes, const std::string& where);

  struct Replacement {
    size_t length = 0;  // of what is replaced; 0: nothing at the text's start is
    std::string_view content;
  };
  /// The longest string of the table that `text` starts with. Only for a table that is not empty.
  Replacement find(std::string_view text) const;
  /// The shortest one.
  Replacement find_shortest(std::string_view text) const;
  bool empty() const { return units_.empty(); }

 private:
  void validate(const std::string& where) const;
  template <bool is_shortest_enough>
  Replacement search(std::string_view text) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

struct SentencepieceNormalizerOptions {
  bool adds_dummy_prefix = true;
  bool removes_extra_spaces = true;
};

/// Immutable.
class SentencepieceNormalizer {
 public:
  /// `user_defined` pieces pass unchanged.
  SentencepieceNormalizer(Charsmap charsmap,
                          const AddedTokenMatcher& user_defined,
                          SentencepieceNormalizerOptions options)
      : charsmap_(std::move(charsmap)), user_defined_(user_defined), options_(options) {}

  /// Any bytes in; valid UTF-8 out, with one U+FFFD for each byte that belongs to no character.
  std::string normalize(std::string_view text) const;
  /// The same with the place of the character that each byte comes from. The space that is put first comes from the
  /// first character, one that stands for several from the first of them.
  AlignedText normalize_aligned(std::string_view text) const;

 private:
  std::string normalize(std::string_view text, std::vector<uint32_t>* sources) const;
  struct Step {
    std::string_view content;
    size_t length;  // of the text that it stands for
  };
  Step next_step(std::string_view text) const;

  Charsmap charsmap_;
  const AddedTokenMatcher& user_defined_;
  SentencepieceNormalizerOptions options_;
};

}  // namespace weft
