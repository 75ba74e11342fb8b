#include "launcher/evaluate_choices.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/progress.h"
#include "data/choice_data.h"
#include "generate/continuation_scores.h"
#include "generate/request_support.h"
#include "tasks/rank_values.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

/// White space at the prompt's end is the choice's, whose first token it belongs to: the tokens behind the prompt's own
/// are the choice, as lm-evaluation-harness cuts them (Gao et al., 2021).
Continuation continuation_of(const Tokenizer& tokenizer,
                             const ModelInfo& info,
                             const std::string& prompt,
                             const std::string& choice,
                             bool is_raw) {
  size_t end = prompt.find_last_not_of(" \t\r\n") + 1;
  std::string head = prompt.substr(0, end), whole = prompt + choice;
  auto encode = [&](const std::string& text) {
    return is_raw ? tokenizer.encode(text, false) : encode_prompt(tokenizer, info, text);
  };
  return {.ids = encode(whole), .prompt_tokens = static_cast<int64_t>(encode(head).size())};
}

/// The first of the largest.
size_t best_of(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

struct Judged {
  size_t by_likelihood = 0, by_byte = 0;
};

Judged judge(const ChoiceQuestion& question, const std::vector<double>& likelihoods) {
  std::vector<double> by_byte;
  for (size_t i = 0; i < likelihoods.size(); ++i) {
    by_byte.push_back(likelihoods[i] / static_cast<double>(question.choices[i].size()));
  }
  return {.by_likelihood = best_of(likelihoods), .by_byte = best_of(by_byte)};
}

std::string line_of(const ChoiceQuestion& question, const Judged& judged, const std::vector<double>& likelihoods) {
  Json object = {{"prompt", question.prompt},
                 {"choices", question.choices},
                 {"label", question.answer},
                 {"prediction", judged.by_likelihood},
                 {"prediction_norm", judged.by_byte},
                 {"scores", likelihoods}};
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

void check_model(const InferenceModel& loaded) {
  const ModelInfo& info = loaded.model->info();
  if (info.has_language_model_head && info.attention == AttentionPattern::causal && !info.has_source) return;
  fail_input("{}: choices are made by a model that reads a text from left to right; {} is none",
             loaded.opened.path,
             info.family);
}

std::vector<ChoiceQuestion> read_all(const std::vector<std::string>& files) {
  std::vector<ChoiceQuestion> questions;
  for (const std::string& file : files) {
    for (ChoiceQuestion& question : read_choice_questions(file)) questions.push_back(std::move(question));
  }
  return questions;
}

/// This data-parallel rank's.
std::vector<ChoiceQuestion> share_of(std::vector<ChoiceQuestion> all, const Communicator& ranks) {
  auto count = static_cast<int64_t>(all.size());
  auto begin = all.begin() + count * ranks.rank() / ranks.size();
  auto end = all.begin() + count * (ranks.rank() + 1) / ranks.size();
  return {std::make_move_iterator(begin), std::make_move_iterator(end)};
}

std::vector<Continuation> continuations_of(const std::vector<ChoiceQuestion>& questions,
                                           const InferenceModel& loaded,
                                           const ChoiceOptions& options) {
  std::vector<Continuation> continuations;
  for (const ChoiceQuestion& question : questions) {
    for (const std::string& choice : question.choices) {
      continuations.push_back(continuation_of(
          *loaded.tokenizer, loaded.model->info(), question.prompt, options.delimiter + choice, options.is_raw));
      const Continuation& last = continuations.back();
      if (last.prompt_tokens >= 1 && last.prompt_tokens < static_cast<int64_t>(last.ids.size())) continue;
      fail_input("{}: the prompt and a choice need tokens of their own; is one of them empty?", question.place);
    }
  }
  return continuations;
}

}  // namespace

ChoiceScores evaluate_choices(InferenceModel& loaded,
                              const std::vector<std::string>& files,
                              const ChoiceOptions& options,
                              bool keeps_predictions,
                              bool shows_progress) {
  check_model(loaded);
  std::vector<ChoiceQuestion> questions = read_all(files);
  auto num_questions = static_cast<int64_t>(questions.size());
  Communicator& ranks = loaded.mesh->data_parallel();
  questions = share_of(std::move(questions), ranks);
  std::vector<Continuation> continuations = continuations_of(questions, loaded, options);
  Progress progress("choosing", static_cast<int64_t>(continuations.size()), shows_progress);
  std::vector<double> all = continuation_log_likelihoods(
      loaded.context, *loaded.model, continuations, {.on_progress = [&](int64_t texts) { progress.add(texts); }});
  ChoiceScores result;
  std::vector<double> right = {0, 0};
  auto next = all.begin();
  for (const ChoiceQuestion& question : questions) {
    auto end = next + static_cast<std::ptrdiff_t>(question.choices.size());
    std::vector<double> likelihoods(next, end);
    next = end;
    Judged judged = judge(question, likelihoods);
    right[0] += judged.by_likelihood == question.answer ? 1 : 0;
    right[1] += judged.by_byte == question.answer ? 1 : 0;
    if (keeps_predictions) result.predictions += line_of(question, judged, likelihoods);
  }
  sum_over_ranks(loaded.context, ranks, right);
  auto count = static_cast<double>(num_questions);
  result.report.task = "choices";
  result.report.examples = num_questions;
  result.report.metrics = {{"acc", right[0] / count}, {"acc_norm", right[1] / count}};
  return result;
}

}  // namespace weft
