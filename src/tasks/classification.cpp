#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ops/collective.h"
#include "ops/loss.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

class ClassificationObjective final : public Objective {
 public:
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    const std::vector<int32_t>& labels = input.micro_batch.labels;
    Tensor logits = input.model.task_logits(context, input.hidden, input.batch);
    WEFT_ASSERT(logits.defined(), "{} has no classifier", input.model.info().family);
    if (!context.training) count(to_floats(logits), labels);
    std::vector<float> weights(labels.size(), input.micro_batch.label_weight * input.factor);
    return {
        softmax_cross_entropy(context, share_gradient_over_tp(context, logits), labels, weights, LossReduction::sum)};
  }

  std::vector<MetricKind> metric_kinds() const override { return {{"accuracy"}, {"f1"}, {"matthews"}}; }

  void begin_evaluation() override { counts_.clear(); }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    EvaluationDetails found = details(context, data_parallel);
    double right = 0, all = 0, f1 = 0, occurring = 0;
    for (const LabelCounts& label : found.labels) {
      right += label.right;
      all += label.expected;
      if (label.predicted + label.expected == 0) continue;
      f1 += f1_of(label.right, label.predicted, label.expected).f1;
      ++occurring;
    }
    if (all == 0) return {};
    return {{"accuracy", right / all}, {"f1", f1 / occurring}, {"matthews", matthews(found.labels, all, right)}};
  }

  EvaluationDetails details(Context& context, Communicator& data_parallel) override {
    std::vector<double> counts = counts_;
    sum_over_ranks(context, data_parallel, counts);
    auto classes = static_cast<size_t>(std::lround(std::sqrt(static_cast<double>(counts.size()))));
    EvaluationDetails result{.names = {}, .labels = std::vector<LabelCounts>(classes)};
    for (size_t expected = 0; expected < classes; ++expected) {
      auto row = counts.begin() + static_cast<std::ptrdiff_t>(expected * classes);
      result.confusion.emplace_back(row, row + static_cast<std::ptrdiff_t>(classes));
      for (size_t predicted = 0; predicted < classes; ++predicted) {
        result.labels[expected].expected += result.confusion[expected][predicted];
        result.labels[predicted].predicted += result.confusion[expected][predicted];
      }
      result.labels[expected].right = result.confusion[expected][expected];
    }
    return result;
  }

 private:
  /// 0 where one of the two is the same for all.
  static double matthews(const std::vector<LabelCounts>& labels, double all, double right) {
    double both = 0, of_predicted = 0, of_expected = 0;
    for (const LabelCounts& label : labels) {
      both += label.predicted * label.expected;
      of_predicted += label.predicted * label.predicted;
      of_expected += label.expected * label.expected;
    }
    double spread = (all * all - of_predicted) * (all * all - of_expected);
    return spread > 0 ? (right * all - both) / std::sqrt(spread) : 0;
  }

  void count(const std::vector<float>& logits, const std::vector<int32_t>& labels) {
    size_t classes = logits.size() / labels.size();
    counts_.resize(classes * classes);
    for (size_t i = 0; i < labels.size(); ++i) {
      if (labels[i] < 0) continue;
      auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * classes);
      auto end = row + static_cast<std::ptrdiff_t>(classes);
      auto best = static_cast<size_t>(std::max_element(row, end) - row);
      counts_[static_cast<size_t>(labels[i]) * classes + best] += 1;
      keep({.labels = {static_cast<int32_t>(best)}, .scores = {row, end}});
    }
  }

  std::vector<double> counts_;  // by expected, then predicted label
};

}  // namespace

std::unique_ptr<Objective> make_classification_objective() {
  return std::make_unique<ClassificationObjective>();
}

}  // namespace weft
