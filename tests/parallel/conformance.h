// One suite for every backend: conformance_test.cpp holds the tests, each binary says which backends it runs them on.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace weft {

struct Backend {
  std::string name;
  /// Runs the body on every rank (in this process: on this rank) with a communicator of its own; returns when all are
  /// done.
  std::function<void(const std::function<void(Communicator&)>&)> run;
  /// Whether a collective that differs between ranks is an error on each.
  bool compares_calls = true;
  /// Whether a receiver notices that something else was sent.
  bool compares_messages = true;
  /// Whether a NaN wins in extremes.
  bool keeps_nan = true;
};

inline std::ostream& operator<<(std::ostream& out, const Backend& backend) {
  return out << backend.name;
}

/// Defined by single_and_threads_backends.cpp, mpi_backends.cpp, nccl_backends.cpp, gpu_nccl_backends.cpp and
/// gpu_backends.cpp.
std::vector<Backend> backends();

}  // namespace weft
