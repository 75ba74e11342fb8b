// The data of a training run, as its config names it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/context.h"
#include "config/run_config.h"
#include "data/training_data.h"
#include "models/model.h"
#include "tokenizer/tokenizer.h"

namespace weft {

struct TrainingDataSets {
  std::unique_ptr<TrainingData> training;
  std::unique_ptr<TrainingData> held_out;  // null without an evaluation
};

/// The labels of a classification, in the order of their numbers; empty for other tasks.
std::vector<std::string> task_labels(const RunConfig& config);

/// Opens token files (.tokens); text (.txt, .jsonl) is made into token files below output.directory first, by rank 0,
/// for which a tokenizer is needed. Collective: what fails there is thrown on all ranks. Throws Error(bad_input).
TrainingDataSets open_data(const RunConfig& config,
                           Communicator& world,
                           const Context& context,
                           const std::shared_ptr<const Tokenizer>& tokenizer,
                           const ModelInfo& model);

}  // namespace weft
