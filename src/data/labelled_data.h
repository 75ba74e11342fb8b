// Texts and pairs of texts with a label, for classification.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/memory_rows.h"

namespace weft {

class Tokenizer;

/// One text or two, and its label.
struct LabelledText {
  std::string first, second;  // second is empty for a single text
  std::string label;
  std::string place = {};  // file and line
  friend bool operator==(const LabelledText&, const LabelledText&) = default;
};

/// Reads .tsv files (text, label; or text, text, label; tabs between, no header) and .jsonl files (objects with "text"
/// and "label", or "first", "second" and "label"). Throws Error(bad_input) with file and line.
std::vector<LabelledText> read_labelled_texts(const std::string& path);

/// The labels that occur, sorted; numbers in the order of their values.
std::vector<std::string> labels_of(const std::vector<LabelledText>& texts);

/// A text a row, with its label's index in `labels`. Throws Error(bad_input) for a label that is not among them.
std::unique_ptr<TrainingData> make_labelled_data(const std::vector<LabelledText>& texts,
                                                 const std::vector<std::string>& labels,
                                                 const Tokenizer& tokenizer,
                                                 const MemoryRowOptions& options);

}  // namespace weft
