// What training tasks on labelled texts have in common: their files, what of them is held out, their rows.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "config/run.pb.h"
#include "core/error.h"
#include "data/memory_rows.h"
#include "launcher/labelled_tasks.h"
#include "launcher/prediction_lines.h"
#include "launcher/train_options.h"
#include "tokenizer/tokenizer.h"

namespace weft {

/// Text is what a file's records are.
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

  bool predicts() const override {
    return requires(const Text& text, const ExamplePrediction& prediction, const PredictionSettings& settings) {
      weft::prediction_line(text, prediction, settings);
    };
  }

  std::string prediction_line([[maybe_unused]] size_t example,
                              const ExamplePrediction& prediction,
                              const Tokenizer& tokenizer,
                              const ModelInfo& model) const override {
    PredictionSettings settings{.head = model.task_head,
                                .tokenizer = tokenizer,
                                .max_length = config_.message().data().sequence_length(),
                                .stride = task().stride()};
    if constexpr (requires(const Text& text) { weft::prediction_line(text, prediction, settings); }) {
      return weft::prediction_line(held_out_.at(example), prediction, settings);
    } else {
      WEFT_ASSERT(false, "this task predicts nothing");
      return {};
    }
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

}  // namespace weft
