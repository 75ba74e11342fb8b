// vocab.txt, BERT's vocabulary file (google-research/bert, tokenization.py): UTF-8, a token a line, its id the line's
// number from 0.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

struct WordPieceVocabulary {
  std::string where;                // the file, for messages
  std::vector<std::string> tokens;  // by id; empty: the id has no token
};

/// A token is what stands before the first white space of its line. Throws Error(bad_input) naming file and line for a
/// token that occurs twice, for bytes that are not UTF-8 and for what is too large to be a vocabulary.
WordPieceVocabulary parse_wordpiece_vocabulary(std::string_view text, const std::string& where);
WordPieceVocabulary read_wordpiece_vocabulary(const std::string& path);

/// A smaller vocabulary and where its rows lie in the tables of the larger one.
struct SimplifiedVocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> keep_tokens;  // the old id of each new one
};

/// First the tokens `startswith` in their order, then by old id all others that are not redundant: longer than one
/// character with a Chinese or a punctuation character behind the "##" ([unused1], ##中 and words of Chinese characters
/// go). Throws Error(bad_input) when the vocabulary lacks one of `startswith`.
SimplifiedVocabulary simplify_vocabulary(const WordPieceVocabulary& vocabulary,
                                         const std::vector<std::string>& startswith);

/// Writes a vocab.txt. Throws Error(bad_input) when that fails.
void save_vocab(const std::vector<std::string>& tokens, const std::string& path);

/// "[…]": never part of a text.
bool is_bracketed(std::string_view token);

}  // namespace weft
