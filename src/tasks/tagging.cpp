#include "tasks/tagging.h"

#include <algorithm>

#include "core/error.h"
#include "data/entity_tags.h"
#include "ops/collective.h"
#include "ops/crf.h"
#include "ops/loss.h"
#include "ops/loss_node.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

/// Scored rows of each sequence of a micro-batch.
std::vector<CrfSequence> scored_sequences(const MicroBatch& micro_batch, float factor) {
  std::vector<CrfSequence> sequences;
  for (size_t s = 0; s < micro_batch.batch.sequences.size(); ++s) {
    const BatchSequence& from = micro_batch.batch.sequences[s];
    CrfSequence& sequence = sequences.emplace_back();
    bool counts = micro_batch.labels.empty() || micro_batch.labels[s] >= 0;
    sequence.weight = counts ? micro_batch.label_weight * factor : 0;
    for (int64_t row = from.begin; row < from.begin + from.length; ++row) {
      int32_t target = micro_batch.targets[static_cast<size_t>(row)];
      if (target < 0) continue;
      sequence.rows.push_back(static_cast<int32_t>(row));
      sequence.labels.push_back(target);
    }
  }
  return sequences;
}

class TaggingObjective final : public Objective {
 public:
  explicit TaggingObjective(const std::vector<std::string>& labels)
      : has_entities_(marks_entities(labels)), types_(entity_types(labels)), counts_(types_.size()) {}

  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    const TaskHead& head = input.model.info().task_head;
    const MicroBatch& micro_batch = input.micro_batch;
    Tensor logits = input.model.task_logits(context, input.hidden, input.batch);
    WEFT_ASSERT(logits.defined(), "{} has no layer for tags", input.model.info().family);
    std::vector<CrfSequence> sequences = scored_sequences(micro_batch, input.factor);
    if (!context.training) count(head, logits, input.model.task_transitions(), sequences, micro_batch.labels);
    Tensor shared = share_gradient_over_tp(context, logits);
    if (head.kind == TaskHead::Kind::crf) {
      Tensor transitions = share_gradient_over_tp(context, input.model.task_transitions());
      return {crf_loss(context, shared, transitions, head.transition_scale, sequences)};
    }
    std::vector<float> weights = micro_batch.weights;
    for (float& weight : weights) weight *= input.factor;
    return {softmax_cross_entropy(context, shared, micro_batch.targets, weights, LossReduction::sum)};
  }

  std::vector<MetricKind> metric_kinds() const override {
    if (!has_entities_) return {{"accuracy"}};
    return {{"accuracy"}, {"precision"}, {"recall"}, {"f1"}};
  }

  void begin_evaluation() override {
    tags_ = right_tags_ = 0;
    counts_.assign(types_.size(), {});
  }

  std::vector<Metric> metrics(Context& context, Communicator& data_parallel) override {
    std::vector<double> sums = {tags_, right_tags_};
    sum_over_ranks(context, data_parallel, sums);
    F1 f1 = f1_of(details(context, data_parallel).labels);
    if (sums[0] == 0) return {};
    std::vector<Metric> result = {{"accuracy", sums[1] / sums[0]}};
    if (!has_entities_) return result;
    result.push_back({"precision", f1.precision});
    result.push_back({"recall", f1.recall});
    result.push_back({"f1", f1.f1});
    return result;
  }

  /// Of entities; none where tags mark no such.
  EvaluationDetails details(Context& context, Communicator& data_parallel) override {
    return {.names = types_, .labels = sum_over_ranks(context, data_parallel, counts_)};
  }

 private:
  /// `counted`: of each sequence −1 where it is not, as a MicroBatch's labels.
  void count(const TaskHead& head,
             const Tensor& logits,
             const Tensor& transitions,
             const std::vector<CrfSequence>& sequences,
             const std::vector<int32_t>& counted) {
    for (size_t s = 0; s < sequences.size(); ++s) {
      const CrfSequence& sequence = sequences[s];
      std::vector<int32_t> tags = predict_tags(head, logits, transitions, sequence.rows);
      for (size_t i = 0; i < tags.size(); ++i) right_tags_ += tags[i] == sequence.labels[i] ? 1 : 0;
      tags_ += static_cast<double>(tags.size());
      std::vector<TaggedEntity> predicted = entities_of(tags, head.labels);
      std::vector<TaggedEntity> expected = entities_of(sequence.labels, head.labels);
      for (const TaggedEntity& entity : predicted) {
        LabelCounts& counts = counts_of(entity);
        ++counts.predicted;
        counts.right += std::find(expected.begin(), expected.end(), entity) != expected.end() ? 1 : 0;
      }
      for (const TaggedEntity& entity : expected) ++counts_of(entity).expected;
      if (counted.empty() || counted[s] >= 0) keep({.labels = std::move(tags)});
    }
  }

  LabelCounts& counts_of(const TaggedEntity& entity) {
    auto found = std::lower_bound(types_.begin(), types_.end(), entity.label);
    return counts_[static_cast<size_t>(found - types_.begin())];
  }

  double tags_ = 0, right_tags_ = 0;  // of words
  bool has_entities_;
  std::vector<std::string> types_;  // of entities, sorted
  std::vector<LabelCounts> counts_;
};

}  // namespace

std::vector<int32_t> predict_tags(const TaskHead& head,
                                  const Tensor& logits,
                                  const Tensor& transitions,
                                  std::span<const int32_t> rows) {
  size_t labels = head.labels.size();
  if (rows.empty()) return {};
  std::vector<float> values = to_floats(logits.slice(rows.front(), rows.back() + 1));
  std::vector<double> emissions;
  emissions.reserve(rows.size() * labels);
  for (int32_t row : rows) {
    auto begin = values.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(row - rows.front()) * labels);
    emissions.insert(emissions.end(), begin, begin + static_cast<std::ptrdiff_t>(labels));
  }
  std::vector<double> scores(labels * labels);
  if (transitions.defined()) {
    scores = to_doubles(transitions);
    for (double& score : scores) score *= head.transition_scale;
  }
  return viterbi(emissions, scores, labels);
}

std::unique_ptr<Objective> make_tagging_objective(const std::vector<std::string>& labels) {
  return std::make_unique<TaggingObjective>(labels);
}

}  // namespace weft
