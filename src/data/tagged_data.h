// Texts whose words have tags, or in which entities are marked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/memory_rows.h"
#include "tokenizer/token_span.h"

namespace weft {

class Tokenizer;

/// Words with a tag each, or a text with entities (the other is empty then).
struct TaggedText {
  struct Entity {
    TokenSpan place;  // bytes of the text
    std::string label;
    friend bool operator==(const Entity&, const Entity&) = default;
  };
  std::vector<std::string> words, tags;
  std::string text;
  std::vector<Entity> entities;
  std::string place = {};  // file and line, of words the first one's
  friend bool operator==(const TaggedText&, const TaggedText&) = default;
};

/// Reads .jsonl files, objects with "tokens" and "tags" or with "text" and "entities" (a list of objects with "start"
/// and "end", the end exclusive and both in characters, and "label"), and files with a word and, after a tab or a
/// space, its tag (the last field) a line and an empty line between texts. Throws Error(bad_input) with file and line.
std::vector<TaggedText> read_tagged_texts(const std::string& path);

/// The tags that occur, sorted; those of entities are "O", "B-LABEL" and "I-LABEL".
std::vector<std::string> tags_of(const std::vector<TaggedText>& texts);
/// The labels of the entities that are marked or that the tags mark, sorted.
std::vector<std::string> entity_labels_of(const std::vector<TaggedText>& texts);

/// Tokens of a text with [CLS] before and [SEP] behind, cut to max_length.
struct TokenisedWords {
  std::vector<int32_t> ids;
  std::vector<int32_t> unit;      // of each token its word; −1 for special ones
  std::vector<TokenSpan> places;  // of each token of a text in its bytes; empty for words
};
TokenisedWords tokenise_words(const std::vector<std::string>& words, const Tokenizer& tokenizer, int64_t max_length);
/// Words are what the tokenizer splits into pieces. Throws Error(bad_input) for tokenizers that cannot say where a
/// token comes from.
TokenisedWords tokenise_text(const std::string& text, const Tokenizer& tokenizer, int64_t max_length);

/// A text a row; the first token of each word has its tag's index in `labels` as its target. Throws Error(bad_input)
/// for a tag that is not among them.
std::unique_ptr<TrainingData> make_tagging_data(const std::vector<TaggedText>& texts,
                                                const std::vector<std::string>& labels,
                                                const Tokenizer& tokenizer,
                                                const MemoryRowOptions& options);

/// A text a row with its entities as marks; one that reaches beyond max_length is left out.
std::unique_ptr<TrainingData> make_entity_data(const std::vector<TaggedText>& texts,
                                               const std::vector<std::string>& labels,
                                               const Tokenizer& tokenizer,
                                               const MemoryRowOptions& options);

}  // namespace weft
