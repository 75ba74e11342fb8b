// Training on texts that are written under a condition (task.condition).
#pragma once

#include <memory>

#include "launcher/labelled_tasks.h"

namespace weft {

/// Reads the data. Throws Error(bad_input). The config must outlive the task.
std::unique_ptr<LabelledTask> make_conditional_task(const RunConfig& config);

}  // namespace weft
