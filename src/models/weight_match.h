// Which of a checkpoint's tensors a model has a place for, and which of its own the checkpoint lacks.
#pragma once

#include <string>
#include <vector>

#include "models/registry.h"

namespace weft {

/// All lists are sorted. A task's layer that the checkpoint does not have yet is not missing.
struct WeightMatch {
  int64_t num_matched = 0;              // tensors of the checkpoint that parameters are read from
  std::vector<std::string> missing;     // tensors that the model needs and the checkpoint lacks
  std::vector<std::string> mismatched;  // a sentence each: tensors of another shape than the config says
  std::vector<std::string> unused;      // tensors of the checkpoint that the model has no place for
  std::vector<std::string> ignored;     // tensors of the checkpoint that are known and not needed
};

/// Reads metadata only; `opened` has a checkpoint.
WeightMatch match_weights(const OpenedModel& opened, const LanguageModel& model);

}  // namespace weft
