#include "train/generated_answers.h"

#include <algorithm>

#include "core/error.h"
#include "generate/beam_search.h"
#include "generate/generator.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr int64_t kAnswersAtATime = 8;

/// What requests of greedy and of beam search have in common.
template <typename Request>
std::vector<Request> make_requests(const std::vector<HeldOutPrompt>& prompts,
                                   const GenerationOptions& options,
                                   const std::vector<int32_t>& end_ids) {
  std::vector<Request> requests;
  for (const HeldOutPrompt& prompt : prompts) {
    Request& request = requests.emplace_back();
    request.prompt = prompt.prompt;
    request.source = prompt.source;
    request.condition = prompt.condition;
    request.max_new_tokens = options.max_new_tokens;
    request.end_ids = end_ids;
  }
  return requests;
}

}  // namespace

std::vector<HeldOutPrompt> prompts_of(const TrainingRow& row) {
  std::vector<HeldOutPrompt> prompts;
  for (size_t s = 0; s < row.spans.size(); ++s) {
    auto begin = row.targets.begin() + row.spans[s].begin;
    auto end = begin + row.spans[s].length;
    auto first = std::find_if(begin, end, [](int32_t target) { return target >= 0; });
    bool has_source = !row.sources.empty();
    if (first == end || (first == begin && !has_source)) continue;
    HeldOutPrompt& prompt = prompts.emplace_back();
    if (has_source) {
      auto source = row.source_ids.begin() + row.sources[s].begin;
      prompt.source.assign(source, source + row.sources[s].length);
    }
    if (!row.condition_labels.empty()) prompt.condition.label = row.condition_labels[s];
    auto width = static_cast<std::ptrdiff_t>(row.condition_values.size() / row.spans.size());
    auto values = row.condition_values.begin() + static_cast<std::ptrdiff_t>(s) * width;
    prompt.condition.values.assign(values, values + width);
    auto ids = row.ids.begin() + row.spans[s].begin;
    prompt.prompt.assign(ids, ids + (first - begin) + 1);
    prompt.answer.assign(first, std::find_if(first, end, [](int32_t target) { return target < 0; }));
  }
  return prompts;
}

GeneratedAnswers::GeneratedAnswers(const TrainingData& data,
                                   int64_t num_rows,
                                   const Tokenizer& tokenizer,
                                   const GenerationOptions& options,
                                   DataParallelPlace place)
    : tokenizer_(tokenizer), options_(options) {
  std::vector<HeldOutPrompt> all;
  auto is_full = [&] { return options.max_rows > 0 && static_cast<int64_t>(all.size()) >= options.max_rows; };
  for (int64_t r = 0; r < num_rows && !is_full(); ++r) {
    for (HeldOutPrompt& prompt : prompts_of(data.row(r))) {
      if (!is_full()) all.push_back(std::move(prompt));
    }
  }
  if (all.empty()) {
    fail_input(
        "evaluation.generation: the held-out data have no prompt with a completion; remove it, or hold such out");
  }
  auto count = static_cast<int64_t>(all.size());
  auto begin = all.begin() + count * place.rank / place.size, end = all.begin() + count * (place.rank + 1) / place.size;
  prompts_.assign(std::make_move_iterator(begin), std::make_move_iterator(end));
}

std::vector<std::string> GeneratedAnswers::generate(Context& context, LanguageModel& model) const {
  std::vector<int32_t> end_ids = model.info().end_ids;
  end_ids.insert(end_ids.end(), tokenizer_.end_ids().begin(), tokenizer_.end_ids().end());
  DType dtype = model.embedding_table().value.dtype();
  std::vector<std::string> texts;
  if (options_.num_beams == 1) {
    Generator generator(context, model, {.cache_dtype = dtype, .max_batch = kAnswersAtATime, .tokenizer = &tokenizer_});
    auto requests = make_requests<GenerationRequest>(prompts_, options_, end_ids);
    for (const GenerationResult& result : generator.run(requests)) texts.push_back(result.text);
    return texts;
  }
  BeamSearch search(
      context,
      model,
      {.cache_dtype = dtype, .max_batch = kAnswersAtATime * options_.num_beams, .tokenizer = &tokenizer_});
  auto requests = make_requests<BeamRequest>(prompts_, options_, end_ids);
  for (BeamRequest& request : requests) request.beams.num_beams = options_.num_beams;
  for (const BeamResults& results : search.run(requests)) {
    texts.push_back(results.empty() ? std::string() : results.front().text);
  }
  return texts;
}

std::vector<WrittenAnswer> GeneratedAnswers::write(Context& context, LanguageModel& model) const {
  std::vector<WrittenAnswer> answers;
  if (prompts_.empty()) return answers;
  std::vector<std::string> texts = generate(context, model);
  for (size_t i = 0; i < prompts_.size(); ++i) {
    const HeldOutPrompt& prompt = prompts_[i];
    answers.push_back({.prompt = tokenizer_.decode(prompt.source.empty() ? prompt.prompt : prompt.source, true),
                       .text = std::move(texts[i]),
                       .reference = tokenizer_.decode(prompt.answer, true)});
  }
  return answers;
}

TextScores GeneratedAnswers::score(const std::vector<WrittenAnswer>& answers) const {
  TextScores scores(options_.unit);
  for (const WrittenAnswer& answer : answers) scores.add(answer.text, answer.reference);
  return scores;
}

}  // namespace weft
