// Texts and pairs of texts with a label, or any number of them, for classification.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/memory_rows.h"

namespace weft {

class Tokenizer;

/// One text or two, and what it is labelled: one label, of multilabel data any number.
struct LabelledText {
  std::string first, second;  // second is empty for a single text
  std::vector<std::string> labels;
  std::string place = {};  // file and line
  friend bool operator==(const LabelledText&, const LabelledText&) = default;
};

/// Reads .tsv files (text, label; or text, text, label; tabs between, no header) and .jsonl files (objects with "text"
/// and "label", or "first", "second" and "label"). Throws Error(bad_input) with file and line.
std::vector<LabelledText> read_labelled_texts(const std::string& path);

/// The same with any number of labels a text: "label" is a list of strings, the field of a .tsv has commas between
/// them, or is empty.
std::vector<LabelledText> read_multilabel_texts(const std::string& path);

/// The labels that occur, sorted; numbers in the order of their values.
std::vector<std::string> labels_of(const std::vector<LabelledText>& texts);

/// A text a row, with its label's index in `labels`. Throws Error(bad_input) for a label that is not among them.
std::unique_ptr<TrainingData> make_labelled_data(const std::vector<LabelledText>& texts,
                                                 const std::vector<std::string>& labels,
                                                 const Tokenizer& tokenizer,
                                                 const MemoryRowOptions& options);

/// The same with a mark for each label of a text, at its first token.
std::unique_ptr<TrainingData> make_multilabel_data(const std::vector<LabelledText>& texts,
                                                   const std::vector<std::string>& labels,
                                                   const Tokenizer& tokenizer,
                                                   const MemoryRowOptions& options);

}  // namespace weft
