#include "tasks/relations.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "core/error.h"
#include "ops/collective.h"
#include "tasks/objective.h"
#include "tasks/rank_values.h"

namespace weft {
namespace {

constexpr int64_t kEntityLabels = 2;
/// An untrained layer marks half of all pairs of tokens.
constexpr size_t kMostEntities = 128;

struct ScoredSpan {
  int32_t first = 0, last = 0;
  float score = 0;
};

/// Of a sequence: [labels of the layer, length, length].
class RelationScores {
 public:
  RelationScores(const TaskHead& head, const Tensor& logits, int64_t begin, int64_t length)
      : scores_(pointer_scores(logits, relation_shape(head), begin, length)),
        length_(length),
        num_labels_(std::ssize(head.labels)) {}

  /// The best ones of subjects (0) or objects (1), by their places.
  std::vector<ScoredSpan> entities(int64_t kind) const {
    std::vector<ScoredSpan> found;
    for (int64_t first = 1; first + 1 < length_; ++first) {
      for (int64_t last = first; last + 1 < length_; ++last) {
        float score = at(kind, first, last);
        if (score > 0) found.push_back({static_cast<int32_t>(first), static_cast<int32_t>(last), score});
      }
    }
    std::stable_sort(
        found.begin(), found.end(), [](const ScoredSpan& a, const ScoredSpan& b) { return a.score > b.score; });
    found.resize(std::min(found.size(), kMostEntities));
    std::sort(found.begin(), found.end(), [](const ScoredSpan& a, const ScoredSpan& b) {
      return std::tie(a.first, a.last) < std::tie(b.first, b.last);
    });
    return found;
  }

  bool are_related(int64_t label, const ScoredSpan& subject, const ScoredSpan& object) const {
    return at(kEntityLabels + label, subject.first, object.first) > 0 &&
           at(kEntityLabels + num_labels_ + label, subject.last, object.last) > 0;
  }

 private:
  float at(int64_t label, int64_t first, int64_t last) const {
    return scores_[static_cast<size_t>((label * length_ + first) * length_ + last)];
  }

  std::vector<float> scores_;
  int64_t length_, num_labels_;
};

/// Subject, label and object, told apart by their tokens: an entity that occurs twice is the same one.
using Triple = std::tuple<std::vector<int32_t>, int32_t, std::vector<int32_t>>;

class RelationObjective final : public Objective {
 public:
  ObjectiveLoss loss(Context& context, const ObjectiveInput& input) override {
    const TaskHead& head = input.model.info().task_head;
    Tensor logits = input.model.task_logits(context, input.hidden, input.batch);
    WEFT_ASSERT(logits.defined(), "{} has no layer for relations", input.model.info().family);
    PointerShape shape = relation_shape(head);
    std::vector<PointerSequence> sequences = marked_sequences(input, shape);
    if (!context.training) count(head, logits, input);
    return {pointer_loss(context, share_gradient_over_tp(context, logits), shape, sequences)};
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
  /// The loss is the sum over labels, as bert4keras' GPLinker has it, not the mean.
  static std::vector<PointerSequence> marked_sequences(const ObjectiveInput& input, const PointerShape& shape) {
    const MicroBatch& micro_batch = input.micro_batch;
    std::vector<PointerSequence> sequences;
    for (size_t s = 0; s < input.batch.sequences.size(); ++s) {
      const BatchSequence& from = input.batch.sequences[s];
      float weight = micro_batch.labels[s] < 0 ? 0 : micro_batch.label_weight * input.factor;
      sequences.push_back({.begin = from.begin,
                           .length = from.length,
                           .marks = {},
                           .weight = weight * static_cast<float>(shape.labels)});
    }
    for (const RowRelation& one : micro_batch.relations) {
      std::vector<PointerMark>& marks = sequences[static_cast<size_t>(one.span)].marks;
      for (const PointerMark& mark : marks_of(one, shape)) marks.push_back(mark);
    }
    return sequences;
  }

  void count(const TaskHead& head, const Tensor& logits, const ObjectiveInput& input) {
    counts_.resize(head.labels.size());
    for (size_t s = 0; s < input.batch.sequences.size(); ++s) {
      if (input.micro_batch.labels[s] < 0) continue;
      const BatchSequence& sequence = input.batch.sequences[s];
      auto ids = input.batch.ids.begin() + sequence.begin;
      auto triple_of = [&](const RowRelation& one) {
        return Triple{{ids + one.subject_first, ids + one.subject_last + 1},
                      one.label,
                      {ids + one.object_first, ids + one.object_last + 1}};
      };
      std::set<Triple> expected, predicted;
      for (const RowRelation& one : input.micro_batch.relations) {
        if (static_cast<size_t>(one.span) == s) expected.insert(triple_of(one));
      }
      ExamplePrediction prediction;
      prediction.relations = predict_relations(head, logits, sequence.begin, sequence.length);
      for (const RowRelation& one : prediction.relations) predicted.insert(triple_of(one));
      keep(std::move(prediction));
      for (const Triple& one : predicted) {
        LabelCounts& counts = counts_[static_cast<size_t>(std::get<1>(one))];
        ++counts.predicted;
        counts.right += expected.contains(one) ? 1 : 0;
      }
      for (const Triple& one : expected) ++counts_[static_cast<size_t>(std::get<1>(one))].expected;
    }
  }

  std::vector<LabelCounts> counts_;
};

}  // namespace

PointerShape relation_shape(const TaskHead& head) {
  auto pairs = 2 * std::ssize(head.labels);
  return {.labels = kEntityLabels + pairs, .size = head.pointer_size, .pair_labels = pairs};
}

std::array<PointerMark, 4> marks_of(const RowRelation& relation, const PointerShape& shape) {
  constexpr auto kEntities = static_cast<int32_t>(kEntityLabels);
  auto num_labels = static_cast<int32_t>(shape.pair_labels / 2);
  return {{{0, relation.subject_first, relation.subject_last},
           {1, relation.object_first, relation.object_last},
           {kEntities + relation.label, relation.subject_first, relation.object_first},
           {kEntities + num_labels + relation.label, relation.subject_last, relation.object_last}}};
}

std::vector<RowRelation> predict_relations(const TaskHead& head, const Tensor& logits, int64_t begin, int64_t length) {
  RelationScores scores(head, logits, begin, length);
  std::vector<ScoredSpan> objects = scores.entities(1);
  std::vector<RowRelation> found;
  for (const ScoredSpan& subject : scores.entities(0)) {
    for (const ScoredSpan& object : objects) {
      for (int32_t label = 0; label < std::ssize(head.labels); ++label) {
        if (!scores.are_related(label, subject, object)) continue;
        found.push_back({.label = label,
                         .subject_first = subject.first,
                         .subject_last = subject.last,
                         .object_first = object.first,
                         .object_last = object.last});
      }
    }
  }
  return found;
}

std::unique_ptr<Objective> make_relation_objective() {
  return std::make_unique<RelationObjective>();
}

}  // namespace weft
