// What a task asks of a model: the loss of a micro-batch, and how good it is on held-out data.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "report/metric_kind.h"
#include "tasks/micro_batch.h"

namespace weft {

class Adapter;
class Communicator;

/// A number of an evaluation: "accuracy", "f1", …
struct Metric {
  std::string name;
  double value = 0;
};

/// Of a label (of tags: of an entity's), how often it was given rightly, was given, and should have been.
struct LabelCounts {
  double right = 0, predicted = 0, expected = 0;
};

/// What an evaluation found beside its metrics.
struct EvaluationDetails {
  std::vector<std::string> names;                   // of `labels`, where they are not the task head's own
  std::vector<LabelCounts> labels;                  // none where the task has none
  std::vector<std::vector<double>> confusion = {};  // of one label a text: texts by expected, then predicted label
};

/// What an objective predicts for an example of an evaluation: a sequence, of answers a question, of similarity a pair.
struct ExamplePrediction {
  std::vector<int32_t> labels = {};  // of the example, or, of tags, of each scored token
  std::vector<float> scores = {};    // of classes their logits; of marks theirs; of an answer its own and that of none;
                                     // of a pair the cosine
  std::vector<RowMark> marks = {};   // entities; an answer, `span` being its window; none: no answer
  std::vector<RowRelation> relations = {};
};

struct ObjectiveInput {
  LanguageModel& model;
  const MicroBatch& micro_batch;
  const Batch& batch;  // the micro-batch's, or that with an embedding_offset
  const Tensor& hidden;
  float factor;  // of all weights
  Communicator& data_parallel;
  Adapter* adapter = nullptr;  // attached
};

/// A loss of one element, and what has to live as long as it.
struct ObjectiveLoss {
  Tensor loss;
  Tensor token_loss = {};
};

class Objective {
 public:
  virtual ~Objective() = default;
  /// Every data-parallel rank calls it as often as the others. Outside of training (context.training) it also counts
  /// for the metrics.
  virtual ObjectiveLoss loss(Context& context, const ObjectiveInput& input) = 0;
  /// Whether add_reference has to be called with all micro-batches that loss() may be called with, then
  /// share_reference, before the weights change for the first time.
  virtual bool needs_reference() const { return false; }
  /// Keeps what the model makes of a micro-batch; nothing is recorded.
  virtual void add_reference(Context& /*context*/, const ObjectiveInput& /*input*/) {}
  /// Brings what the other ranks have kept. Collective.
  virtual void share_reference(Context& /*context*/, Communicator& /*data_parallel*/) {}
  /// Whether metrics() is also asked for after every training step, of what was computed in it.
  virtual bool measures_steps() const { return false; }
  virtual void begin_evaluation() {}
  /// What metrics() may report.
  virtual std::vector<MetricKind> metric_kinds() const { return {}; }
  /// Of all that was computed since begin_evaluation, over all data-parallel ranks. Collective.
  virtual std::vector<Metric> metrics(Context& /*context*/, Communicator& /*data_parallel*/) { return {}; }
  /// Of the same. Collective.
  virtual EvaluationDetails details(Context& /*context*/, Communicator& /*data_parallel*/) { return {}; }
  /// Outside of training what is predicted for each example that is scored goes there, too; null: nowhere.
  void keep_predictions(std::vector<ExamplePrediction>* predictions) { predictions_ = predictions; }

 protected:
  void keep(ExamplePrediction prediction) const {
    if (predictions_ != nullptr) predictions_->push_back(std::move(prediction));
  }

 private:
  std::vector<ExamplePrediction>* predictions_ = nullptr;
};

/// Each token's target among the whole vocabulary: language modelling of all kinds.
std::unique_ptr<Objective> make_language_objective();

/// The same of sequences that are to come out as a whole. Metrics: exact_match, how many greedy generation would write
/// to the token; accuracy, of tokens behind right ones.
std::unique_ptr<Objective> make_sequence_objective();

/// Labels of sequences. Metrics: accuracy, f1 (the mean over labels), matthews (the correlation of predicted and
/// expected labels: Gorodkin, 2004).
std::unique_ptr<Objective> make_classification_objective();

/// Any number of labels a sequence, its marks: those with a score above 0. Metrics: micro_f1 over all labels of all
/// sequences, macro_f1 (the mean over labels), exact_match.
std::unique_ptr<Objective> make_multilabel_objective();

/// Labels of tokens (targets), each on its own or, of a crf, together; with a crf the sequences' labels say which count
/// (0), and their weight is that of a sequence. Metrics: accuracy, and precision, recall and f1 of entities where
/// labels mark such ("B-", "I-", …).
std::unique_ptr<Objective> make_tagging_objective(const std::vector<std::string>& labels);

/// Marked tokens by GlobalPointer. Metrics: precision, recall, f1.
std::unique_ptr<Objective> make_entity_objective();

/// Relations of entities by GPLinker. Metrics: precision, recall, f1 of subject, relation and object together, the
/// entities compared by their tokens, not their places.
std::unique_ptr<Objective> make_relation_objective();

/// First and last token of an answer: the first mark of a sequence, its first token where it has none. Sequences with
/// the same label are windows of one text; further marks are other right answers. Metrics: exact_match and f1, as SQuAD
/// has them (Rajpurkar et al., 2016) but over tokens.
std::unique_ptr<Objective> make_answer_objective(int64_t max_answer_length);

struct SimilarityOptions {
  double scale = 30;           // of cosines
  bool mean = false;           // a text's vector is the mean over its tokens
  bool first = false;          // it is the first token's hidden state, though there is a pooler
  bool generates = false;      // tokens have targets too (SimBERT)
  bool has_scores = false;     // the pairs of an evaluation do
  bool learns_scores = false;  // CoSENT: of pairs that have a score, not of pairs that mean the same
  double cosent_scale = 20;    // of differences of cosines, with learns_scores
};
/// Pairs of sequences next to each other that mean the same, against all others of a micro-batch on all data-parallel
/// ranks; with learns_scores pairs whose cosines come to be in the order of their scores (cosent_loss). Metrics:
/// spearman and pearson of cosines and scores, where pairs have one, else accuracy: how often the nearest is the right
/// one.
std::unique_ptr<Objective> make_similarity_objective(const SimilarityOptions& options);

}  // namespace weft
