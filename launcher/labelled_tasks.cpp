#include "launcher/labelled_tasks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/log.h"
#include "data/labelled_data.h"
#include "data/question_data.h"
#include "data/relation_data.h"
#include "data/similar_data.h"
#include "data/tagged_data.h"
#include "launcher/conditional_task.h"
#include "launcher/preference_task.h"
#include "launcher/text_task.h"
#include "models/sentence_settings.h"

namespace weft {
namespace {

/// Any number of labels a text.
class MultilabelTask final : public LabelsTask<LabelledText> {
 public:
  explicit MultilabelTask(const RunConfig& config)
      : LabelsTask(config, read_multilabel_texts, make_multilabel_data, [](const TaskHead& /*head*/) {
          return make_multilabel_objective();
        }) {}

  TaskHead head() const override {
    std::vector<std::string> labels = labels_of(training());
    if (labels.empty()) fail_input("{}: no text has a label", config().location("data.sources"));
    TaskHead head = head_of(TaskHead::Kind::sequence_classification, labels);
    head.multilabel = true;
    return head;
  }
};

class ClassificationTask final : public LabelsTask<LabelledText> {
 public:
  explicit ClassificationTask(const RunConfig& config)
      : LabelsTask(config, read_labelled_texts, make_labelled_data, [](const TaskHead& /*head*/) {
          return make_classification_objective();
        }) {}

  TaskHead head() const override {
    std::vector<std::string> labels = labels_of(training());
    if (labels.size() < 2) {
      fail_input("{}: all texts have the label {}", first_source(), printable(labels.front()));
    }
    return head_of(TaskHead::Kind::sequence_classification, labels);
  }
};

class TaggingTask final : public LabelsTask<TaggedText> {
 public:
  explicit TaggingTask(const RunConfig& config)
      : LabelsTask(config, read_tagged_texts, make_tagging_data, [](const TaskHead& head) {
          return make_tagging_objective(head.labels);
        }) {}

  TaskHead head() const override {
    std::vector<std::string> tags = tags_of(training());
    if (tags.size() < 2) fail_input("{}: all words have the tag {}", first_source(), printable(tags.front()));
    return head_of(task().crf() ? TaskHead::Kind::crf : TaskHead::Kind::token_classification, tags);
  }
};

class EntityTask final : public LabelsTask<TaggedText> {
 public:
  explicit EntityTask(const RunConfig& config)
      : LabelsTask(config, read_tagged_texts, make_entity_data, [](const TaskHead& /*head*/) {
          return make_entity_objective();
        }) {}

  TaskHead head() const override {
    std::vector<std::string> labels = entity_labels_of(training());
    if (labels.empty()) fail_input("{}: no text has an entity", first_source());
    return head_of(TaskHead::Kind::global_pointer, labels);
  }
};

class RelationTask final : public LabelsTask<RelationText> {
 public:
  explicit RelationTask(const RunConfig& config)
      : LabelsTask(config, read_relation_texts, make_relation_data, [](const TaskHead& /*head*/) {
          return make_relation_objective();
        }) {}

  TaskHead head() const override {
    std::vector<std::string> predicates = predicates_of(training());
    if (predicates.empty()) fail_input("{}: no text has a relation", first_source());
    return head_of(TaskHead::Kind::relations, predicates);
  }
};

class QuestionTask final : public TextTask<QuestionText> {
 public:
  explicit QuestionTask(const RunConfig& config) : TextTask(config, read_questions) {
    if (!task().has_stride() || task().stride() < config.message().data().sequence_length()) return;
    fail_input("{}: task.stride is {}; windows of data.sequence_length {} cannot share as many tokens",
               config.location("task.stride"),
               task().stride(),
               config.message().data().sequence_length());
  }

  TaskHead head() const override { return head_of(TaskHead::Kind::question_answering, {}); }
  std::unique_ptr<Objective> objective(const ModelInfo& /*model*/) const override {
    return make_answer_objective(task().max_answer_length());
  }

 protected:
  std::unique_ptr<TrainingData> make(const std::vector<QuestionText>& texts,
                                     const Tokenizer& tokenizer,
                                     const ModelInfo& /*model*/,
                                     const MemoryRowOptions& options,
                                     bool is_held_out) const override {
    return make_question_data(texts, tokenizer, {.rows = options, .stride = task().stride(), .together = is_held_out});
  }
};

class SimilarityTask final : public TextTask<SimilarTexts> {
 public:
  explicit SimilarityTask(const RunConfig& config) : TextTask(config, read_similar_texts) {
    learns_scores_ = std::any_of(training().begin(), training().end(), has_score);
    if (!learns_scores_) return;
    for (auto [texts, field] : {std::pair{&training(), "data.sources"}, std::pair{&held_out(), "evaluation.sources"}}) {
      if (std::all_of(texts->begin(), texts->end(), has_score)) continue;
      fail_input("{}: {}: some pairs have no score, but others that are trained on have one; give all of them one",
                 config.location(field),
                 field);
    }
  }

  TaskHead head() const override { return {}; }
  /// What sentence-transformers has a name for; the pooler's vector has none.
  std::string model_overrides() const override {
    if (pooling() == config::TaskConfig::POOLED) return "";
    nlohmann::json sentence = {{"pooling", pooling() == config::TaskConfig::MEAN ? "mean" : "cls"},
                               {"max_length", config().message().data().sequence_length()}};
    return nlohmann::json{{"sentence", sentence}}.dump();
  }
  std::unique_ptr<Objective> objective(const ModelInfo& model) const override {
    if (!task().has_pooling() && pooling() != config::TaskConfig::POOLED) {
      log::info("a text's vector is made as the model's 1_Pooling/config.json says: {}",
                config::TaskConfig::Pooling_Name(pooling()));
    }
    return make_similarity_objective({.scale = task().similarity_scale(),
                                      .mean = pooling() == config::TaskConfig::MEAN,
                                      .first = pooling() == config::TaskConfig::CLS,
                                      .generates = generates(model),
                                      .has_scores = std::any_of(held_out().begin(), held_out().end(), has_score),
                                      .learns_scores = learns_scores_,
                                      .cosent_scale = task().cosent_scale()});
  }

 protected:
  std::unique_ptr<TrainingData> make(const std::vector<SimilarTexts>& texts,
                                     const Tokenizer& tokenizer,
                                     const ModelInfo& model,
                                     const MemoryRowOptions& options,
                                     bool /*is_held_out*/) const override {
    return make_similarity_data(texts, tokenizer, generates(model), options);
  }

 private:
  config::TaskConfig::Pooling pooling() const {
    if (task().has_pooling()) return task().pooling();
    const std::string& path = config().message().model().path();
    std::string named = read_sentence_pooling(path);
    if (named == "max" || named == "last") {
      fail_input("{}: {} pools by {}, which SIMILARITY does not train; set task.pooling",
                 config().location("model.path"),
                 path,
                 named == "max" ? "maximum" : "the last token");
    }
    return named == "mean"  ? config::TaskConfig::MEAN
           : named == "cls" ? config::TaskConfig::CLS
                            : config::TaskConfig::POOLED;
  }

  static bool has_score(const SimilarTexts& pair) { return pair.score.has_value(); }
  /// Texts of which some are far apart are not to be written from each other.
  bool generates(const ModelInfo& model) const {
    return !learns_scores_ && model.attention == AttentionPattern::prefix && model.has_language_model_head;
  }

  bool learns_scores_ = false;
};

}  // namespace

TaskHead fit_task_head(const RunConfig& config, const TaskHead& wanted, const OpenedModel& checkpoint) {
  TaskHead head = wanted;
  head.begins_anew = config.message().task().new_head();
  const TaskHead& present = checkpoint.info().task_head;
  if (head.begins_anew || present.kind == TaskHead::Kind::none) return head;
  constexpr std::string_view kNew = "to begin a new one set task.new_head: true";
  bool gains_transitions = present.kind == TaskHead::Kind::token_classification && wanted.kind == TaskHead::Kind::crf;
  if (present.kind != wanted.kind && !gains_transitions) {
    fail_input("{}: {} has a layer for {} and this task needs one for {}; {}",
               config.location("task.kind"),
               checkpoint.path,
               task_head_name(present.kind),
               task_head_name(wanted.kind),
               kNew);
  }
  if (!has_placeholder_labels(present)) {
    head.labels = present.labels;
  } else if (present.labels.size() != wanted.labels.size()) {
    fail_input("{}: {} has a layer for {} labels without names and the data has {}; {}",
               config.location("data.sources"),
               checkpoint.path,
               present.labels.size(),
               wanted.labels.size(),
               kNew);
  }
  return head;
}

ModelOptions task_model_options(const RunConfig& source, const LabelledTask* labelled) {
  ModelOptions options = model_options(source.message());
  TaskHead head = labelled == nullptr ? TaskHead{} : labelled->head();
  if (head.kind == TaskHead::Kind::none) {
    if (labelled != nullptr) options.overrides = labelled->model_overrides();
    return options;
  }
  options.overrides = task_head_overrides(fit_task_head(source, head, open_model(options)));
  return options;
}

std::shared_ptr<Objective> task_objective(const config::RunConfig& config,
                                          const LabelledTask* labelled,
                                          const ModelInfo& model) {
  if (labelled != nullptr) return labelled->objective(model);
  if (config.task().kind() == config::TaskConfig::SEQUENCE_TO_SEQUENCE) return make_sequence_objective();
  return make_language_objective();
}

bool is_labelled_task(const config::RunConfig& config) {
  switch (config.task().kind()) {
    case config::TaskConfig::CLASSIFICATION:
    case config::TaskConfig::TAGGING:
    case config::TaskConfig::ENTITIES:
    case config::TaskConfig::RELATIONS:
    case config::TaskConfig::QUESTION_ANSWERING:
    case config::TaskConfig::SIMILARITY:
    case config::TaskConfig::PREFERENCE:
      return true;
    default:
      return config.task().condition() != config::TaskConfig::NO_CONDITION;
  }
}

std::unique_ptr<LabelledTask> read_labelled_task(const RunConfig& config) {
  if (config.message().task().condition() != config::TaskConfig::NO_CONDITION) {
    return make_conditional_task(config);
  }
  switch (config.message().task().kind()) {
    case config::TaskConfig::CLASSIFICATION:
      if (config.message().task().multilabel()) return std::make_unique<MultilabelTask>(config);
      return std::make_unique<ClassificationTask>(config);
    case config::TaskConfig::TAGGING:
      return std::make_unique<TaggingTask>(config);
    case config::TaskConfig::ENTITIES:
      return std::make_unique<EntityTask>(config);
    case config::TaskConfig::RELATIONS:
      return std::make_unique<RelationTask>(config);
    case config::TaskConfig::QUESTION_ANSWERING:
      return std::make_unique<QuestionTask>(config);
    case config::TaskConfig::SIMILARITY:
      return std::make_unique<SimilarityTask>(config);
    case config::TaskConfig::PREFERENCE:
      return make_preference_task(config);
    default:
      return nullptr;
  }
}

}  // namespace weft
