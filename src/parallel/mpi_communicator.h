// Ranks that are processes started by mpirun or srun. MPI must have been started (launcher/mpi_session.h) and outlive
// every communicator.
#pragma once

#include <memory>

#include "parallel/activity.h"
#include "parallel/communicator.h"

namespace weft {

#ifdef NDEBUG
inline constexpr bool kCheckCallsByDefault = false;
#else
inline constexpr bool kCheckCallsByDefault = true;
#endif

struct MpiOptions {
  /// MPI counts are int: more bytes than this travel in several messages.
  int64_t max_message_bytes = int64_t{1} << 30;
  /// Small calls between ranks of one node go through shared memory, at a fifth of MPI's latency.
  bool use_shared_memory = true;
  /// Compares kind, op, dtype and shape of every call between ranks that share no memory, at the price of one more
  /// small collective. Ranks that do share memory are always compared.
  bool check_calls = kCheckCallsByDefault;
  /// Told the name of every operation; may be null.
  std::shared_ptr<Activity> activity = nullptr;
};

/// A communicator over a duplicate of MPI_COMM_WORLD. MPI's errors come back as Error(communication).
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options = {});

}  // namespace weft
