// The answers of weft generate on standard output.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "generate/beam_search.h"
#include "generate/generator.h"
#include "launcher/prompts.h"

namespace weft {

struct AnswerFormat {
  bool is_json = false;
  bool is_ids = false;        // ids instead of text
  bool is_streaming = false;  // of one answer: its text as it grows
  bool has_score = false;     // of beam search
  size_t answers_a_prompt = 1;
  const Tokenizer* tokenizer = nullptr;  // for the texts of single tokens
};

/// At once, as far as it goes.
void write_answer(std::string_view text);

/// Prints answers in the order of the prompts, as they become complete.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(const AnswerFormat& format) : format_(format) {}

  void add_prompt(const Prompt& prompt);
  /// A prompt that cannot be answered: a message in place of its answers.
  void add_unusable_prompt(const Prompt& prompt, const std::string& message);

  void on_token(const DrawnToken& token);
  /// `index` counts answers, answers_a_prompt of them a prompt that can be answered.
  void on_finish(size_t index, const GenerationResult& result);
  /// A beam search may find fewer answers than were asked for.
  void on_finish(size_t prompt, const BeamResults& results);

 private:
  struct Answer {
    Prompt prompt;
    size_t sequence = 0;  // among those of the prompt
    std::unique_ptr<GenerationResult> result;
    std::string message;  // instead of a result
    bool is_complete = false;
  };

  void print_complete();
  void print(const Answer& answer);
  std::string to_json(const Answer& answer) const;

  AnswerFormat format_;
  std::vector<Answer> answers_;  // in the order of printing; emptied when printed
  std::vector<size_t> places_;   // of the answers to prompts that can be answered
  size_t num_printed_ = 0;
};

}  // namespace weft
