// Questions with the text that answers them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/memory_rows.h"
#include "tokenizer/token_span.h"

namespace weft {

class Tokenizer;

struct QuestionText {
  std::string question, context;
  std::vector<TokenSpan> answers;  // bytes of the context; none: it has no answer
  friend bool operator==(const QuestionText&, const QuestionText&) = default;
};

/// Reads .jsonl files, objects with "question", "context" and either "answers" as SQuAD has them ({"text": […],
/// "answer_start": […]} or a list of {"text", "answer_start"}, in characters) or "answer", a text whose first place in
/// the context counts; and files with question, context and answer a line, tabs between. Throws Error(bad_input) with
/// file and line.
std::vector<QuestionText> read_questions(const std::string& path);

/// The same without their answers, which may be left out.
std::vector<QuestionText> read_open_questions(const std::string& path);

/// A window of a question's text: [CLS] question [SEP] part of the context [SEP].
struct QuestionWindow {
  std::vector<int32_t> ids, segments;
  std::vector<TokenSpan> places;  // of each token of the context in its bytes; empty ones for others
};
/// Windows of at most max_length tokens, neighbours sharing `stride` tokens of the context, or half of what fits.
/// Throws Error(bad_input) when the question leaves no room for the context.
std::vector<QuestionWindow> make_windows(const std::string& question,
                                         const std::string& context,
                                         const Tokenizer& tokenizer,
                                         int64_t max_length,
                                         int64_t stride);

struct QuestionRowOptions {
  MemoryRowOptions rows;
  int64_t stride = 64;
  bool together = false;  // all windows of a question in one row, to be scored together; else a window a row
};

/// Windows as spans, labelled by their question's number, answers as marks.
std::unique_ptr<TrainingData> make_question_data(const std::vector<QuestionText>& questions,
                                                 const Tokenizer& tokenizer,
                                                 const QuestionRowOptions& options);

}  // namespace weft
