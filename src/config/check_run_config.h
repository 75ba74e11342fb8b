// What fields must be by themselves and together. Every error is one line that begins with where the field was set.
#pragma once

#include <cstdint>

#include "config/run_config.h"

namespace weft {

/// All checks that need neither files nor ranks. Throws Error(bad_input).
void check_run_config(const RunConfig& config);

/// How the ranks divide a step.
struct RankLayout {
  int tensor = 1;                 // ranks that share the weights
  int data = 1;                   // ranks with rows of their own
  int64_t micro_batch_size = 0;   // rows a rank computes at a time
  int64_t num_micro_batches = 0;  // of each rank in a step
};

/// Throws Error(usage) when so many ranks cannot run the config.
RankLayout check_against_ranks(const RunConfig& config, int num_ranks);

}  // namespace weft
