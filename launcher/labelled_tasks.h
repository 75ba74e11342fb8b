// Training tasks on labelled texts: what they put on the model, their rows and what they are scored by.
#pragma once

#include <memory>
#include <string>

#include "config/run_config.h"
#include "models/model.h"
#include "models/registry.h"
#include "models/task_head.h"
#include "tasks/objective.h"

namespace weft {

namespace config {
class RunConfig;
}

class Tokenizer;
class TrainingData;

struct TrainingDataSets {
  std::unique_ptr<TrainingData> training;
  std::unique_ptr<TrainingData> held_out;  // null without an evaluation
};

/// The texts of a run, read once: the model is made for their labels, then they are tokenised for the model.
class LabelledTask {
 public:
  virtual ~LabelledTask() = default;
  /// The layer that the model needs; of kind none where it needs none.
  virtual TaskHead head() const = 0;
  /// What the model's config says for tasks without a layer (ModelOptions::overrides).
  virtual std::string model_overrides() const { return ""; }
  /// Throws Error(bad_input) for texts that the model cannot take.
  virtual TrainingDataSets rows(const Tokenizer& tokenizer, const ModelInfo& model) const = 0;
  virtual std::unique_ptr<Objective> objective(const ModelInfo& model) const = 0;
  /// Whether the objective keeps a prediction for each example; else there is its loss alone.
  virtual bool predicts() const = 0;
  /// A line of JSON on the held-out example of this index (prediction_lines.h).
  virtual std::string prediction_line(size_t example,
                                      const ExamplePrediction& prediction,
                                      const Tokenizer& tokenizer,
                                      const ModelInfo& model) const = 0;
};

/// The layer that a task needs, `wanted`, as the checkpoint has it: with the checkpoint's labels. Throws
/// Error(bad_input) where the checkpoint's is for another task or other labels and task.new_head is not set.
TaskHead fit_task_head(const RunConfig& config, const TaskHead& wanted, const OpenedModel& checkpoint);

/// The model of a config, with the layer that the task needs; `labelled` is null for tasks on token files.
ModelOptions task_model_options(const RunConfig& source, const LabelledTask* labelled);

/// What the config's task trains.
std::shared_ptr<Objective> task_objective(const config::RunConfig& config,
                                          const LabelledTask* labelled,
                                          const ModelInfo& model);

/// Whether the config's task is one on labelled texts.
bool is_labelled_task(const config::RunConfig& config);

/// Null for tasks on token files. Throws Error(bad_input). The config must outlive the task.
std::unique_ptr<LabelledTask> read_labelled_task(const RunConfig& config);

}  // namespace weft
