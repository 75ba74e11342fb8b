// Texts with relations between entities that occur in them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/memory_rows.h"
#include "tokenizer/token_span.h"

namespace weft {

class Tokenizer;

struct RelationText {
  /// "subject predicate object"; entities are bytes of the text, where it names them first.
  struct Relation {
    TokenSpan subject;
    std::string predicate;
    TokenSpan object;
    friend bool operator==(const Relation&, const Relation&) = default;
  };
  std::string text;
  std::vector<Relation> relations;
  std::string place = {};  // file and line
  friend bool operator==(const RelationText&, const RelationText&) = default;
};

/// Reads .jsonl files: objects with "text" and "spo_list", a list of objects with "subject", "predicate" and "object",
/// texts that occur in the text, in the same case or another (of ASCII). Throws Error(bad_input) with file and line.
std::vector<RelationText> read_relation_texts(const std::string& path);

/// The predicates that occur, sorted.
std::vector<std::string> predicates_of(const std::vector<RelationText>& texts);

/// A text a row with its relations; one of an entity that reaches beyond max_length is left out. Throws
/// Error(bad_input) for a predicate that is not among `labels`.
std::unique_ptr<TrainingData> make_relation_data(const std::vector<RelationText>& texts,
                                                 const std::vector<std::string>& labels,
                                                 const Tokenizer& tokenizer,
                                                 const MemoryRowOptions& options);

}  // namespace weft
