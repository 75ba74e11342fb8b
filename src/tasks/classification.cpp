#include <algorithm>

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

  std::vector<MetricKind> metric_kinds() const override { return {{"accuracy"}, {"f1"}}; }

  void begin_evaluation() override { counts_.clear(); }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    sum_over_ranks(context, data_parallel, counts_);
    double right = 0, all = 0, f1 = 0, occurring = 0;
    for (size_t c = 0; c + kCounts <= counts_.size(); c += kCounts) {
      right += counts_[c];
      all += counts_[c + 2];
      if (counts_[c + 1] + counts_[c + 2] == 0) continue;
      f1 += f1_of(counts_[c], counts_[c + 1], counts_[c + 2]).f1;
      ++occurring;
    }
    if (all == 0) return {};
    return {{"accuracy", right / all}, {"f1", f1 / occurring}};
  }

 private:
  static constexpr size_t kCounts = 3;  // of a label: right, predicted, expected

  void count(const std::vector<float>& logits, const std::vector<int32_t>& labels) {
    size_t classes = logits.size() / labels.size();
    counts_.resize(classes * kCounts);
    for (size_t i = 0; i < labels.size(); ++i) {
      if (labels[i] < 0) continue;
      auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * classes);
      auto best = static_cast<size_t>(std::max_element(row, row + static_cast<std::ptrdiff_t>(classes)) - row);
      auto label = static_cast<size_t>(labels[i]);
      if (best == label) counts_[label * kCounts] += 1;
      counts_[best * kCounts + 1] += 1;
      counts_[label * kCounts + 2] += 1;
    }
  }

  std::vector<double> counts_;
};

}  // namespace

std::unique_ptr<Objective> make_classification_objective() {
  return std::make_unique<ClassificationObjective>();
}

}  // namespace weft
