// Texts to be written under a condition: a label, or a list of numbers, that a model's norms take.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/document_encoder.h"
#include "data/memory_rows.h"

namespace weft {

struct ConditionalText {
  TrainingDocument document;
  std::string label = {};          // or
  std::vector<float> values = {};  // as many in every text
  std::string place = {};          // file and line
};

/// Reads .tsv files (text, label; or prompt, completion, label; tabs between, no header) and .jsonl files: objects as
/// training on texts, completions and conversations has them, with a "label". Throws Error(bad_input) with file and
/// line.
std::vector<ConditionalText> read_label_conditions(const std::string& path);

/// The same of .jsonl files with a "condition", a list of numbers, instead of the label.
std::vector<ConditionalText> read_vector_conditions(const std::string& path);

/// The labels that occur, sorted.
std::vector<std::string> condition_labels_of(const std::vector<ConditionalText>& texts);

/// A text a row, cut to max_length, with its label's index in `labels` or, where those are empty, its numbers. Texts of
/// which nothing is left to score are left out. Throws Error(bad_input) for a label that is not among them, and where
/// no row is left.
std::unique_ptr<TrainingData> make_conditional_data(const std::vector<ConditionalText>& texts,
                                                    const std::vector<std::string>& labels,
                                                    const DocumentEncoder& encoder,
                                                    const MemoryRowOptions& options);

}  // namespace weft
