// The folder of a training run, before the run begins.
#pragma once

#include "autograd/context.h"
#include "config/run_config.h"

namespace weft {

/// Makes output.directory with the resolved config in it (config.textproto). In a folder that was begun with another
/// config it says what differs; `starts_over` deletes its checkpoints. Collective: a failure on rank 0 is thrown on all
/// ranks as Error(bad_input).
void start_run_directory(const RunConfig& config, Communicator& world, const Context& context, bool starts_over);

}  // namespace weft
