// Reading a checkpoint into a run, whatever mesh wrote it.
#pragma once

#include <string>

#include "training_checkpoint/training_checkpoint.h"

namespace weft {

/// This rank's part of the weights and of the optimizer's state; false when there is none of the latter, which then is
/// that of a new run. Throws Error(bad_input) when they do not fit.
bool restore_from(const std::string& folder, const CheckpointSubject& subject);

}  // namespace weft
