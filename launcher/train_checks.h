// What of a config can be checked only with the model, the tokenizer or the data. Each check throws Error(bad_input)
// with the config's line.
#pragma once

#include "config/run_config.h"
#include "train/trainer.h"

namespace weft {

/// Rows fit the model's positions.
void check_sequence_length(const RunConfig& config, const ModelInfo& model);

/// Each pattern of train.optimizer is found in the name of a parameter of the model or of the adapter (null: none).
void check_name_patterns(const RunConfig& config, const LanguageModel& model, const Adapter* adapter);

/// Each pattern of train.freeze freezes something, something is left to train, and FGM has the embedding's gradient.
void check_freeze(const RunConfig& config, LanguageModel& model, const EngineOptions& options);

/// Warm-up ends within the run, whose steps train.epochs says only with the data.
void check_warmup(const RunConfig& config, const TrainerOptions& options);

/// The model can write the answers to samples.prompts, which fit its positions. Without a tokenizer (null) they are not
/// looked at.
void check_samples(const RunConfig& config, const ModelInfo& model, const Tokenizer* tokenizer);

/// There is a tokenizer for the answers of evaluation.generation.
void check_generation(const RunConfig& config, const TrainerOptions& options, const Tokenizer* tokenizer);

/// checkpoint.best_metric, which is one of those that the task's evaluations report: the task knows which values are
/// good.
MetricKind find_best_metric(const RunConfig& config, const TrainerOptions& options);

}  // namespace weft
