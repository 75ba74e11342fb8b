#include "generate/continuation_scores.h"

#include <algorithm>

#include "core/error.h"

namespace weft {
namespace {

/// The ids, the last of which is only a target, within the model's context.
Continuation fit(const Continuation& given, int64_t max_positions) {
  auto size = static_cast<int64_t>(given.ids.size());
  if (given.prompt_tokens < 1) fail_input("a choice stands behind a prompt of no tokens; give it a beginning");
  if (given.prompt_tokens >= size) fail_input("a choice has no tokens of its own");
  int64_t surplus = max_positions > 0 ? std::max<int64_t>(0, size - 1 - max_positions) : 0;
  if (surplus >= given.prompt_tokens) {
    fail_input(
        "a choice of {} tokens does not fit the model's context of {}", size - given.prompt_tokens, max_positions);
  }
  return {.ids = {given.ids.begin() + surplus, given.ids.end()}, .prompt_tokens = given.prompt_tokens - surplus};
}

/// Appends log likelihoods of continuations that are computed together.
void score(Context& context, LanguageModel& model, std::span<const Continuation> some, std::vector<double>& into) {
  Batch batch;
  std::vector<int32_t> targets;
  for (const Continuation& one : some) {
    batch.add({one.ids.begin(), one.ids.end() - 1});
    for (size_t i = 1; i < one.ids.size(); ++i) {
      targets.push_back(static_cast<int64_t>(i) < one.prompt_tokens ? -1 : one.ids[i]);
    }
  }
  Tensor hidden = model.hidden(context, batch, nullptr);
  LanguageModelLoss loss = language_model_loss(context, model, hidden, targets, {}, LossReduction::sum, &batch);
  std::vector<float> of_tokens = to_floats(loss.token_loss);
  for (const BatchSequence& sequence : batch.sequences) {
    double sum = 0;
    for (int64_t i = sequence.begin; i < sequence.begin + sequence.length; ++i) {
      sum -= static_cast<double>(of_tokens[static_cast<size_t>(i)]);
    }
    into.push_back(sum);
  }
}

}  // namespace

std::vector<double> continuation_log_likelihoods(Context& context,
                                                 LanguageModel& model,
                                                 const std::vector<Continuation>& continuations,
                                                 const ContinuationOptions& options) {
  std::vector<Continuation> fitted;
  for (const Continuation& one : continuations) fitted.push_back(fit(one, model.info().max_positions));
  std::vector<double> likelihoods;
  for (size_t begin = 0; begin < fitted.size();) {
    size_t end = begin;
    int64_t tokens = 0;
    do {
      tokens += static_cast<int64_t>(fitted[end++].ids.size());
    } while (end < fitted.size() && tokens + static_cast<int64_t>(fitted[end].ids.size()) <= options.batch_tokens);
    score(context, model, std::span(fitted).subspan(begin, end - begin), likelihoods);
    if (options.on_progress) options.on_progress(static_cast<int64_t>(end - begin));
    begin = end;
  }
  return likelihoods;
}

}  // namespace weft
