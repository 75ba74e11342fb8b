// Questions with answers to choose from.
#pragma once

#include <string>
#include <vector>

namespace weft {

struct ChoiceQuestion {
  std::string prompt;
  std::vector<std::string> choices;  // at least two
  size_t answer = 0;                 // the right one
  std::string place = {};            // file and line
  friend bool operator==(const ChoiceQuestion&, const ChoiceQuestion&) = default;
};

/// Reads .jsonl files, objects with "prompt" or "context", "choices" and "answer", which is the index of a choice, from
/// 0, or its text. Throws Error(bad_input) with file and line.
std::vector<ChoiceQuestion> read_choice_questions(const std::string& path);

}  // namespace weft
