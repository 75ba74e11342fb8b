// The data of a training run, as its config names it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/context.h"
#include "config/run_config.h"
#include "data/training_data.h"
#include "launcher/labelled_tasks.h"
#include "models/model.h"
#include "tokenizer/tokenizer.h"

namespace weft {

/// Throws Error(bad_input) for a task that the model is not made for.
void check_task(const RunConfig& config, const ModelInfo& model);

/// Opens token files (.tokens); text (.txt, .jsonl) is made into token files below output.directory first, by rank 0,
/// for which a tokenizer is needed. Those of a labelled task are its rows. Collective: what fails there is thrown on
/// all ranks. Throws Error(bad_input).
TrainingDataSets open_data(const RunConfig& config,
                           Communicator& world,
                           const Context& context,
                           const std::shared_ptr<const Tokenizer>& tokenizer,
                           const ModelInfo& model,
                           const LabelledTask* labelled);

}  // namespace weft
