// Evaluation by what a model writes: answers to held-out prompts, compared with the held-out ones.
#pragma once

#include <string>
#include <vector>

#include "tasks/text_scores.h"
#include "train/step_batches.h"

namespace weft {

class Tokenizer;

struct GenerationOptions {
  int64_t max_rows = 64;  // prompts to answer, over all ranks; 0: all
  int64_t max_new_tokens = 64;
  int64_t num_beams = 1;  // 1: greedy
  TextUnit unit = TextUnit::words;
};

/// A held-out prompt and the right answer to it.
struct HeldOutPrompt {
  std::vector<int32_t> source;  // of encoder-decoders
  std::vector<int32_t> prompt;  // up to the first token of the answer
  std::vector<int32_t> answer;  // the tokens that are scored
  Condition condition = {};     // that the model's norms take
};

/// What the model wrote for a prompt, as texts.
struct WrittenAnswer {
  std::string prompt;  // or source
  std::string text, reference;
};

/// Of the spans of a row those that have a prompt: tokens before the first one that is scored, or a source.
std::vector<HeldOutPrompt> prompts_of(const TrainingRow& row);

class GeneratedAnswers {
 public:
  /// Takes its share of the prompts of the first `num_rows` rows, the ranks' shares being contiguous. Throws
  /// Error(bad_input) when no row has a prompt.
  GeneratedAnswers(const TrainingData& data,
                   int64_t num_rows,
                   const Tokenizer& tokenizer,
                   const GenerationOptions& options,
                   DataParallelPlace place);

  /// Answers them. The ranks of a tensor-parallel group must call it together, others need not.
  std::vector<WrittenAnswer> write(Context& context, LanguageModel& model) const;
  TextScores score(const std::vector<WrittenAnswer>& answers) const;

 private:
  std::vector<std::string> generate(Context& context, LanguageModel& model) const;

  const Tokenizer& tokenizer_;
  GenerationOptions options_;
  std::vector<HeldOutPrompt> prompts_;
};

}  // namespace weft
