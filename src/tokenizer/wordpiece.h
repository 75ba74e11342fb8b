// The WordPiece model: a word becomes the longest piece it starts with, and so on with what is left of it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/byte_trie.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_model.h"

namespace weft {

struct WordPieceOptions {
  std::string where;  // for messages
  std::string unknown_token = "[UNK]";
  std::string continuing_prefix = "##";  // of pieces inside a word
  int64_t max_word_characters = 100;     // a longer word is unknown
};

/// Immutable. A word with any part that the vocabulary lacks is one unknown token, as in the reference.
class WordPieceModel : public WordModel {
 public:
  /// Throws Error(bad_input) when the vocabulary lacks the unknown token or is larger than any real one, or
  /// max_word_characters is not in 1 … 1000: the time for a byte grows with it.
  WordPieceModel(const Vocabulary& vocabulary, const WordPieceOptions& options);

  void encode(std::string_view word,
              const char* readable_end,
              ModelScratch& scratch,
              std::vector<int32_t>& ids) const override;
  bool encode_with_spans(std::string_view word,
                         std::vector<int32_t>& ids,
                         std::vector<TokenSpan>& spans) const override;
  std::unique_ptr<ModelScratch> make_scratch() const override;

 private:
  static constexpr uint32_t kWordRoot = 0;
  static constexpr uint32_t kContinuingRoot = 1;

  bool is_too_long(std::string_view word) const;
  /// Calls on_piece(id, begin, end) for each piece; false when a part is unknown, whatever was called before.
  template <typename OnPiece>
  bool match_pieces(std::string_view word, const OnPiece& on_piece) const;

  size_t max_word_characters_;
  int32_t unknown_id_;
  ByteTrie pieces_{2};
};

}  // namespace weft
