#include "tasks/entities.h"

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "ops/collective.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

class EntityObjective final : public Objective {
 public:
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    const TaskHead& head = input.model.info().task_head;
    Tensor logits = input.model.task_logits(context, input.hidden, input.batch);
    WEFT_ASSERT(logits.defined(), "{} has no layer for entities", input.model.info().family);
    std::vector<PointerSequence> sequences = marked_sequences(input);
    if (!context.training) count(head, logits, sequences);
    return {pointer_loss(context, share_gradient_over_tp(context, logits), pointer_shape(head), sequences)};
  }

  std::vector<MetricKind> metric_kinds() const override { return {{"precision"}, {"recall"}, {"f1"}}; }

  void begin_evaluation() override { counts_.clear(); }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    F1 f1 = f1_of(details(context, data_parallel).labels);
    return {{"precision", f1.precision}, {"recall", f1.recall}, {"f1", f1.f1}};
  }

  EvaluationDetails details(Context& context, Communicator& data_parallel) override {
    return {.names = {}, .labels = sum_over_ranks(context, data_parallel, counts_)};
  }

 private:
  static std::vector<PointerSequence> marked_sequences(const ObjectiveInput& input) {
    const MicroBatch& micro_batch = input.micro_batch;
    std::vector<PointerSequence> sequences;
    for (size_t s = 0; s < input.batch.sequences.size(); ++s) {
      const BatchSequence& from = input.batch.sequences[s];
      float weight = micro_batch.labels[s] < 0 ? 0 : micro_batch.label_weight * input.factor;
      sequences.push_back({.begin = from.begin, .length = from.length, .marks = {}, .weight = weight});
    }
    for (const RowMark& mark : micro_batch.marks) {
      sequences[static_cast<size_t>(mark.span)].marks.push_back({mark.label, mark.first, mark.last});
    }
    return sequences;
  }

  void count(const TaskHead& head, const Tensor& logits, const std::vector<PointerSequence>& sequences) {
    counts_.resize(head.labels.size());
    for (const PointerSequence& sequence : sequences) {
      if (sequence.weight == 0) continue;
      ExamplePrediction prediction;
      for (const PredictedMark& one : predict_marks(head, logits, sequence.begin, sequence.length)) {
        bool is_right = std::find(sequence.marks.begin(), sequence.marks.end(), one.mark) != sequence.marks.end();
        LabelCounts& counts = counts_[static_cast<size_t>(one.mark.label)];
        ++counts.predicted;
        counts.right += is_right ? 1 : 0;
        prediction.marks.push_back({.label = one.mark.label, .first = one.mark.first, .last = one.mark.last});
        prediction.scores.push_back(one.score);
      }
      for (const PointerMark& mark : sequence.marks) ++counts_[static_cast<size_t>(mark.label)].expected;
      keep(std::move(prediction));
    }
  }

  std::vector<LabelCounts> counts_;
};

}  // namespace

PointerShape pointer_shape(const TaskHead& head) {
  return {.labels = static_cast<int64_t>(head.labels.size()), .size = head.pointer_size};
}

std::vector<PredictedMark> predict_marks(const TaskHead& head, const Tensor& logits, int64_t begin, int64_t length) {
  std::vector<float> scores = pointer_scores(logits, pointer_shape(head), begin, length);
  std::vector<PredictedMark> marks;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] <= 0) continue;
    auto cell = static_cast<int64_t>(i);
    marks.push_back({.mark = {.label = static_cast<int32_t>(cell / (length * length)),
                              .first = static_cast<int32_t>(cell / length % length),
                              .last = static_cast<int32_t>(cell % length)},
                     .score = scores[i]});
  }
  std::sort(marks.begin(), marks.end(), [](const PredictedMark& a, const PredictedMark& b) {
    return std::tie(a.mark.first, a.mark.last, a.mark.label) < std::tie(b.mark.first, b.mark.last, b.mark.label);
  });
  return marks;
}

std::unique_ptr<Objective> make_entity_objective() {
  return std::make_unique<EntityObjective>();
}

}  // namespace weft
