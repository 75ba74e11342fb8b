#include "tasks/answers.h"

#include <algorithm>
#include <limits>
#include <map>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/loss.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

using Ids = std::vector<int32_t>;

/// F1 of two bags of tokens, 1 for two empty ones.
double token_f1(const Ids& predicted, const Ids& expected) {
  if (predicted.empty() || expected.empty()) return predicted.empty() && expected.empty() ? 1 : 0;
  std::map<int32_t, int64_t> left;
  for (int32_t id : expected) ++left[id];
  double common = 0;
  for (int32_t id : predicted) common += left[id]-- > 0 ? 1 : 0;
  return f1_of(common, static_cast<double>(predicted.size()), static_cast<double>(expected.size())).f1;
}

/// What all windows of one question say.
struct Question {
  Ids predicted;
  float score = -std::numeric_limits<float>::infinity();
  float none_score = std::numeric_limits<float>::infinity();
  std::vector<Ids> expected;
  RowMark mark = {};    // the answer's
  int32_t windows = 0;  // so far
};

class AnswerObjective final : public Objective {
 public:
  explicit AnswerObjective(int64_t max_answer_length) : max_answer_length_(max_answer_length) {}

  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    Tensor logits = input.model.task_logits(context, input.hidden, input.batch);
    WEFT_ASSERT(logits.defined(), "{} has no layer for answers", input.model.info().family);
    if (!context.training) count(logits, input);
    const MicroBatch& micro_batch = input.micro_batch;
    std::vector<ColumnTarget> targets;
    for (size_t s = 0; s < input.batch.sequences.size(); ++s) {
      const BatchSequence& from = input.batch.sequences[s];
      float weight = micro_batch.labels[s] < 0 ? 0 : micro_batch.label_weight * input.factor / 2;
      const RowMark* mark = first_mark(micro_batch, s);
      for (int32_t column : {0, 1}) {
        int64_t target = mark == nullptr ? 0 : column == 0 ? mark->first : mark->last;
        targets.push_back(
            {.begin = from.begin, .length = from.length, .column = column, .target = target, .weight = weight});
      }
    }
    return {column_cross_entropy(context, share_gradient_over_tp(context, logits), targets)};
  }

  std::vector<MetricKind> metric_kinds() const override { return {{"exact_match"}, {"f1"}}; }

  void begin_evaluation() override { questions_ = exact_ = f1_ = 0; }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    std::vector<double> sums = {questions_, exact_, f1_};
    sum_over_ranks(context, data_parallel, sums);
    if (sums[0] == 0) return {};
    return {{"exact_match", sums[1] / sums[0]}, {"f1", sums[2] / sums[0]}};
  }

 private:
  static const RowMark* first_mark(const MicroBatch& micro_batch, size_t sequence) {
    for (const RowMark& mark : micro_batch.marks) {
      if (mark.span == static_cast<int32_t>(sequence)) return &mark;
    }
    return nullptr;
  }

  void count(const Tensor& logits, const ObjectiveInput& input) {
    const Batch& batch = input.batch;
    std::map<int32_t, Question> questions;
    auto ids_of = [&](const BatchSequence& sequence, int32_t first, int32_t last) {
      auto begin = batch.ids.begin() + sequence.begin;
      return Ids(begin + first, begin + last + 1);
    };
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const BatchSequence& sequence = batch.sequences[s];
      if (input.micro_batch.labels[s] < 0) continue;
      Question& question = questions[input.micro_batch.labels[s]];
      std::span<const int32_t> segments(batch.segment_ids);
      TextTokens text =
          text_tokens(segments.subspan(static_cast<size_t>(sequence.begin), static_cast<size_t>(sequence.length)));
      PredictedAnswer answer = predict_answer(logits, sequence.begin, text.begin, text.end, max_answer_length_);
      question.none_score = std::min(question.none_score, answer.none_score);
      if (answer.score > question.score) {
        question.score = answer.score;
        question.predicted = ids_of(sequence, answer.first, answer.last);
        question.mark = {.span = question.windows, .label = 0, .first = answer.first, .last = answer.last};
      }
      ++question.windows;
      for (const RowMark& mark : input.micro_batch.marks) {
        if (mark.span != static_cast<int32_t>(s)) continue;
        question.expected.push_back(ids_of(sequence, mark.first, mark.last));
      }
    }
    for (auto& [label, question] : questions) score(question);
  }

  void score(Question& question) {
    if (question.none_score > question.score) question.predicted.clear();
    if (question.expected.empty()) question.expected.emplace_back();
    double exact = 0, f1 = 0;
    for (const Ids& expected : question.expected) {
      exact = std::max(exact, expected == question.predicted ? 1.0 : 0.0);
      f1 = std::max(f1, token_f1(question.predicted, expected));
    }
    ExamplePrediction prediction{.labels = {}, .scores = {question.score, question.none_score}};
    if (question.none_score <= question.score) prediction.marks = {question.mark};
    keep(std::move(prediction));
    questions_ += 1;
    exact_ += exact;
    f1_ += f1;
  }

  int64_t max_answer_length_;
  double questions_ = 0, exact_ = 0, f1_ = 0;
};

}  // namespace

PredictedAnswer predict_answer(
    const Tensor& logits, int64_t begin, int64_t text_begin, int64_t text_end, int64_t max_answer_length) {
  std::vector<float> values = to_floats(logits.slice(begin, begin + text_end));
  auto start = [&](int64_t token) { return values[static_cast<size_t>(2 * token)]; };
  auto end = [&](int64_t token) { return values[static_cast<size_t>(2 * token + 1)]; };
  PredictedAnswer best{.score = -std::numeric_limits<float>::infinity(), .none_score = start(0) + end(0)};
  for (int64_t first = text_begin; first < text_end; ++first) {
    for (int64_t last = first; last < std::min(text_end, first + max_answer_length); ++last) {
      if (start(first) + end(last) <= best.score) continue;
      best.first = static_cast<int32_t>(first);
      best.last = static_cast<int32_t>(last);
      best.score = start(first) + end(last);
    }
  }
  return best;
}

TextTokens text_tokens(std::span<const int32_t> segments) {
  auto begin = std::find(segments.begin(), segments.end(), 1);
  auto length = static_cast<int64_t>(segments.size());
  return {.begin = begin - segments.begin(), .end = std::max<int64_t>(begin - segments.begin(), length - 1)};
}

std::unique_ptr<Objective> make_answer_objective(int64_t max_answer_length) {
  return std::make_unique<AnswerObjective>(max_answer_length);
}

}  // namespace weft
