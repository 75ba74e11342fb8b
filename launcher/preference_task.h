// Training on pairs of answers of which one is preferred.
#pragma once

#include <memory>

#include "launcher/labelled_tasks.h"

namespace weft {

/// Throws Error(bad_input). The config must outlive the task.
std::unique_ptr<LabelledTask> make_preference_task(const RunConfig& config);

}  // namespace weft
