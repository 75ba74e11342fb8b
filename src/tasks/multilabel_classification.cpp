#include <algorithm>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/multilabel.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

class MultilabelObjective final : public Objective {
 public:
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    Tensor logits = input.model.task_logits(context, input.hidden, input.batch);
    WEFT_ASSERT(logits.defined(), "{} has no classifier", input.model.info().family);
    const MicroBatch& micro_batch = input.micro_batch;
    std::vector<std::vector<int32_t>> labels(micro_batch.labels.size());
    for (const RowMark& mark : micro_batch.marks) labels[static_cast<size_t>(mark.span)].push_back(mark.label);
    std::vector<float> weights;
    for (int32_t label : micro_batch.labels) {
      weights.push_back(label < 0 ? 0 : micro_batch.label_weight * input.factor);
    }
    if (!context.training) count(to_floats(logits), labels, weights);
    return {multilabel_cross_entropy(context, share_gradient_over_tp(context, logits), labels, weights)};
  }

  std::vector<MetricKind> metric_kinds() const override { return {{"micro_f1"}, {"macro_f1"}, {"exact_match"}}; }

  void begin_evaluation() override {
    counts_.clear();
    sequences_ = exact_ = 0;
  }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    std::vector<double> sums = {exact_, sequences_};
    sum_over_ranks(context, data_parallel, sums);
    EvaluationDetails found = details(context, data_parallel);
    if (sums[1] == 0) return {};
    double f1 = 0, occurring = 0;
    for (const LabelCounts& label : found.labels) {
      if (label.predicted + label.expected == 0) continue;
      f1 += f1_of(label.right, label.predicted, label.expected).f1;
      ++occurring;
    }
    return {{"micro_f1", f1_of(found.labels).f1},
            {"macro_f1", occurring > 0 ? f1 / occurring : 0},
            {"exact_match", sums[0] / sums[1]}};
  }

  EvaluationDetails details(Context& context, Communicator& data_parallel) override {
    return {.names = {}, .labels = sum_over_ranks(context, data_parallel, counts_)};
  }

 private:
  void count(const std::vector<float>& logits,
             const std::vector<std::vector<int32_t>>& labels,
             const std::vector<float>& weights) {
    size_t classes = logits.size() / labels.size();
    counts_.resize(classes);
    for (size_t i = 0; i < labels.size(); ++i) {
      if (weights[i] == 0) continue;
      bool is_exact = true;
      auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * classes);
      ExamplePrediction prediction{.labels = {}, .scores = {row, row + static_cast<std::ptrdiff_t>(classes)}};
      for (size_t c = 0; c < classes; ++c) {
        bool is_predicted = logits[i * classes + c] > 0;
        bool is_expected = std::find(labels[i].begin(), labels[i].end(), static_cast<int32_t>(c)) != labels[i].end();
        counts_[c].right += is_predicted && is_expected ? 1 : 0;
        counts_[c].predicted += is_predicted ? 1 : 0;
        counts_[c].expected += is_expected ? 1 : 0;
        is_exact = is_exact && is_predicted == is_expected;
        if (is_predicted) prediction.labels.push_back(static_cast<int32_t>(c));
      }
      keep(std::move(prediction));
      ++sequences_;
      exact_ += is_exact ? 1 : 0;
    }
  }

  std::vector<LabelCounts> counts_;
  double sequences_ = 0, exact_ = 0;
};

}  // namespace

std::unique_ptr<Objective> make_multilabel_objective() {
  return std::make_unique<MultilabelObjective>();
}

}  // namespace weft
