// weft plan --train.
#pragma once

#include <string>
#include <vector>

#include "launcher/common.h"

namespace weft {

struct TrainingPlanOptions {
  bool is_wanted = false;
  std::string config;                  // empty: the options describe the training
  std::vector<std::string> fields;     // FIELD=VALUE of the options that were given
  std::vector<std::string> overrides;  // --set
  int num_ranks = 0;                   // 0: as many as the config needs at least
  int num_devices = 0;                 // 0: no suggestion
  std::string memory_per_device;
};

/// --train and what belongs to it, which needs it.
void add_training_plan_options(Command command, TrainingPlanOptions& options);

/// Prints the plan, and the suggestion if one is asked for, to standard output. Throws Error(usage) and
/// Error(bad_input) for what cannot be.
void print_training_plan(const CommonOptions& common,
                         const TrainingPlanOptions& options,
                         const MpiSession& session,
                         bool as_json);

}  // namespace weft
