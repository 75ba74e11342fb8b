// A training run from its first step to its last: data, schedule, evaluation, samples, log and checkpoints around the
// engine.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/training_data.h"
#include "optimizer/schedule.h"
#include "report/run_log.h"
#include "train/engine.h"
#include "train/generated_answers.h"
#include "training_checkpoint/training_checkpoint.h"

namespace weft {

class Tokenizer;

struct TrainerOptions {
  EngineOptions engine;
  ScheduleOptions schedule;
  int64_t steps = 1;
  int64_t batch_size = 8;        // rows of a step over all ranks
  int64_t micro_batch_size = 0;  // rows of a rank at a time; 0: all of its rows
  uint64_t seed = 0;
  int64_t max_bad_steps = 5;  // skipped steps in a row after which the run ends
  int64_t save_every = 0;     // steps; 0: at the end only
  CheckpointOptions checkpoint;
  int64_t evaluate_every = 0;                        // steps; 0: at the beginning and the end only
  int64_t max_evaluation_rows = 0;                   // 0: all
  std::optional<GenerationOptions> generation = {};  // with these, answers are written in evaluations
  int64_t patience = 0;             // evaluations without a better checkpoint.best_metric that end the run; 0: never
  bool evaluates_averages = false;  // evaluation and samples with the weights' moving averages
  std::vector<std::string> sample_prompts;
  int64_t sample_every = 0;  // steps; 0: at the end only
  int64_t max_sample_tokens = 48;
  RunLogOptions log;
  double seconds_per_token_bound = 0;  // what the machine would need at best for a token; 0: unknown
  bool may_resume = true;              // from the latest whole checkpoint in checkpoint.directory
};

/// What a run is made of. All of it outlives the trainer.
struct TrainerParts {
  const Context& context;
  const Mesh& mesh;
  const OpenedModel& base;
  LanguageModel& model;
  Adapter* adapter = nullptr;
  const TrainingData& data;
  const TrainingData* held_out = nullptr;
  const Tokenizer* tokenizer = nullptr;  // for samples
  std::string tokenizer_path;            // whose files go beside saved weights; empty: the model's
  std::function<void()> on_begin;        // called on every rank when nothing stands against the run any more
  std::function<void(int64_t step, int64_t saved_step)> on_step;  // called on every rank before each step; −1: none is
                                                                  // saved
  std::function<bool()> should_stop;  // asked on every rank before each step; one yes stops all
};

enum class TrainingEnd : uint8_t { finished, stopped };

/// What every evaluation reports.
std::vector<MetricKind> evaluation_metric_kinds(const TrainerOptions& options);

/// Trains. Collective over the mesh. When stopped it saves first. Throws Error(bad_input) when the loss stays without a
/// finite value, or when the last save fails.
TrainingEnd run_training(const TrainerParts& parts, const TrainerOptions& options);

}  // namespace weft
