// Calls that go on beside the caller's work, whatever the backend.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace weft {

/// Collective over `ranks`, which it must not outlive: a group of the same ranks, to be used by one thread, whose
/// started calls go on beside what their caller does. If the backend cannot do that by itself, a thread makes the
/// calls; where it may not (allows_concurrent_groups), they are done when they return: overlaps() tells.
std::unique_ptr<Communicator> make_background_communicator(Communicator& ranks);

}  // namespace weft
