// Pairs of texts that mean the same.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/memory_rows.h"

namespace weft {

class Tokenizer;

struct SimilarTexts {
  std::string first, second;
  std::optional<float> score;  // how alike they are, on any scale; of held-out pairs
  friend bool operator==(const SimilarTexts&, const SimilarTexts&) = default;
};

/// Reads files with text, text and perhaps a score a line, tabs between, and .jsonl files, objects with "first",
/// "second" and perhaps "score", or with "text" and "synonyms", each of which makes a pair with the text. Throws
/// Error(bad_input) with file and line; also where some have a score and others none.
std::vector<SimilarTexts> read_similar_texts(const std::string& path);

/// A pair a row. Two spans, a text each; or, where one is to be written from the other (SimBERT), both texts twice: the
/// second as segment 1 and target of the first, and the other way round. Each text is cut to max_length.
std::unique_ptr<TrainingData> make_similarity_data(const std::vector<SimilarTexts>& texts,
                                                   const Tokenizer& tokenizer,
                                                   bool generates,
                                                   const MemoryRowOptions& options);

}  // namespace weft
