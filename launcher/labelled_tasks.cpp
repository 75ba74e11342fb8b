#include "launcher/labelled_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "config/run.pb.h"
#include "core/error.h"
#include "core/log.h"
#include "data/labelled_data.h"
#include "data/question_data.h"
#include "data/similar_data.h"
#include "data/tagged_data.h"
#include "launcher/prediction_lines.h"
#include "launcher/train_options.h"
#include "models/sentence_settings.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

/// What all have in common. Text is what a file's records are.
template <typename Text>
class TextTask : public LabelledTask {
 public:
  using Read = std::vector<Text> (*)(const std::string& path);

  /// The last part of the texts is held out where no data of its own are.
  TextTask(const RunConfig& config, Read read) : config_(config) {
    const config::RunConfig& message = config.message();
    check_options(config);
    training_ = read_all(training_data_options(message).sources, read);
    held_out_ = read_all(evaluation_data_options(message).sources, read);
    double fraction = message.evaluation().held_out_fraction();
    if (!held_out_.empty() || fraction <= 0) return;
    auto kept = static_cast<std::ptrdiff_t>(std::ceil(static_cast<double>(training_.size()) * (1 - fraction)));
    held_out_.assign(training_.begin() + kept, training_.end());
    training_.resize(static_cast<size_t>(kept));
  }

  TrainingDataSets rows(const Tokenizer& tokenizer, const ModelInfo& model) const override {
    TrainingDataOptions options = training_data_options(config_.message());
    MemoryRowOptions rows{.max_length = options.sequence_length, .shuffle = options.shuffle, .seed = options.seed};
    TrainingDataSets sets;
    sets.training = make(training_, tokenizer, model, rows, false);
    rows.shuffle = false;
    if (!held_out_.empty()) sets.held_out = make(held_out_, tokenizer, model, rows, true);
    return sets;
  }

  std::string prediction_line(size_t example,
                              const ExamplePrediction& prediction,
                              const Tokenizer& tokenizer,
                              const ModelInfo& model) const override {
    return weft::prediction_line(held_out_.at(example),
                                 prediction,
                                 {.head = model.task_head,
                                  .tokenizer = tokenizer,
                                  .max_length = config_.message().data().sequence_length(),
                                  .stride = task().stride()});
  }

 protected:
  virtual std::unique_ptr<TrainingData> make(const std::vector<Text>& texts,
                                             const Tokenizer& tokenizer,
                                             const ModelInfo& model,
                                             const MemoryRowOptions& options,
                                             bool is_held_out) const = 0;

  const config::TaskConfig& task() const { return config_.message().task(); }
  const RunConfig& config() const { return config_; }
  const std::vector<Text>& training() const { return training_; }
  const std::vector<Text>& held_out() const { return held_out_; }
  /// For messages about the data.
  std::string first_source() const { return printable(config_.message().data().sources(0).path()); }

  TaskHead head_of(TaskHead::Kind kind, const std::vector<std::string>& labels) const {
    return {.kind = kind,
            .labels = labels,
            .dropout = static_cast<float>(task().dropout()),
            .pointer_size = task().pointer_size(),
            .transition_scale = task().transition_scale()};
  }

 private:
  static void check_options(const RunConfig& config) {
    constexpr int64_t kShortest = 3;  // a token between two special ones
    const config::DataConfig& data = config.message().data();
    if (data.sequence_length() < kShortest) {
      fail_input("{}: data.sequence_length is {}, which leaves no room for a text between [CLS] and [SEP]",
                 config.location("data.sequence_length"),
                 data.sequence_length());
    }
    for (int i = 0; i < data.sources_size(); ++i) {
      if (data.sources(i).weight() == data.sources(0).weight()) continue;
      std::string field = fmt::format("data.sources[{}].weight", i);
      fail_input("{}: {} is {}: the files of labelled texts are taken as one, without weights; remove it",
                 config.location(field),
                 field,
                 data.sources(i).weight());
    }
  }

  static std::vector<Text> read_all(const std::vector<DataSourceOptions>& sources, Read read) {
    std::vector<Text> all;
    for (const DataSourceOptions& source : sources) {
      std::vector<Text> texts = read(source.path);
      all.insert(all.end(), std::make_move_iterator(texts.begin()), std::make_move_iterator(texts.end()));
    }
    return all;
  }

  const RunConfig& config_;
  std::vector<Text> training_, held_out_;
};

/// Tasks whose rows need the texts and the labels of the model's layer, no more.
template <typename Text>
class LabelsTask : public TextTask<Text> {
 public:
  using Make = std::unique_ptr<TrainingData> (*)(const std::vector<Text>& texts,
                                                 const std::vector<std::string>& labels,
                                                 const Tokenizer& tokenizer,
                                                 const MemoryRowOptions& options);
  using MakeObjective = std::unique_ptr<Objective> (*)(const TaskHead& head);

  LabelsTask(const RunConfig& config, typename TextTask<Text>::Read read, Make make_rows, MakeObjective make_objective)
      : TextTask<Text>(config, read), make_rows_(make_rows), make_objective_(make_objective) {}

  std::unique_ptr<Objective> objective(const ModelInfo& model) const override {
    return make_objective_(model.task_head);
  }

 protected:
  std::unique_ptr<TrainingData> make(const std::vector<Text>& texts,
                                     const Tokenizer& tokenizer,
                                     const ModelInfo& model,
                                     const MemoryRowOptions& options,
                                     bool /*is_held_out*/) const override {
    return make_rows_(texts, model.task_head.labels, tokenizer, options);
  }

 private:
  Make make_rows_;
  MakeObjective make_objective_;
};

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
    if (named == "max") {
      fail_input("{}: {} pools by maximum, which SIMILARITY does not train; set task.pooling",
                 config().location("model.path"),
                 path);
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
    case config::TaskConfig::QUESTION_ANSWERING:
    case config::TaskConfig::SIMILARITY:
      return true;
    default:
      return false;
  }
}

std::unique_ptr<LabelledTask> read_labelled_task(const RunConfig& config) {
  switch (config.message().task().kind()) {
    case config::TaskConfig::CLASSIFICATION:
      if (config.message().task().multilabel()) return std::make_unique<MultilabelTask>(config);
      return std::make_unique<ClassificationTask>(config);
    case config::TaskConfig::TAGGING:
      return std::make_unique<TaggingTask>(config);
    case config::TaskConfig::ENTITIES:
      return std::make_unique<EntityTask>(config);
    case config::TaskConfig::QUESTION_ANSWERING:
      return std::make_unique<QuestionTask>(config);
    case config::TaskConfig::SIMILARITY:
      return std::make_unique<SimilarityTask>(config);
    default:
      return nullptr;
  }
}

}  // namespace weft
