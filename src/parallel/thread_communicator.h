// Ranks that are threads of one process: for tests, and for running the parallel code under sanitizers.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace weft {

/// One communicator a rank, to be moved into `size` threads. Destroying one tells the others that its rank is gone:
/// whoever waits for it gets Error(communication). After a mismatch every later call throws too.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size);

/// Runs body(communicator) in `size` threads and joins them; a rank that throws lets go of its communicator at once.
/// Rethrows the first error by rank that isn't Error(communication), since those are often only its consequence; else
/// the first error.
void run_thread_ranks(int size, const std::function<void(const std::shared_ptr<Communicator>&)>& body);

}  // namespace weft
