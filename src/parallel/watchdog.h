// Notices ranks that no longer run, names them and ends the job. MPI alone waits for a frozen rank forever.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "parallel/activity.h"
#include "parallel/communicator.h"

namespace weft {

struct WatchdogOptions {
  std::chrono::milliseconds heartbeat{1000};
  /// Silence after which a rank counts as frozen. Heartbeats have a thread of their own, so that a busy machine doesn't
  /// delay them by seconds.
  std::chrono::milliseconds deadline{8000};
  /// Time for the other ranks to fail too, after one has failed, before the job is ended.
  std::chrono::milliseconds grace{1500};
};

/// Every rank sends its heartbeat over TCP to rank 0, where a thread answers them (on one node over the loopback
/// device). A rank that is silent past the deadline, or whose connection ends, is named on standard error with its
/// host, process id, last operation and step; then every rank leaves with exit code communication, without unwinding.
/// The same happens when it is rank 0 that no longer answers.
class Watchdog {
 public:
  /// Collective over `world`, which needs at least two ranks. Throws Error(communication) if rank 0 cannot be reached.
  Watchdog(Communicator& world, std::shared_ptr<const Activity> activity, const WatchdogOptions& options = {});
  /// Waits until all ranks have come this far, so that nobody is inside MPI_Finalize while ranks can still be missed.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Reports how this rank's command ended (`message` is empty unless it failed) and waits for the others, as long as
  /// they take. Once all have ended returns the same exit code on every rank. If one failed and others go on, they are
  /// ended after the grace period with its code, and so is this process. Failures are printed in one line: the same
  /// message of all ranks once, else the lowest rank's as "rank 3: …".
  int agree(int code, const std::string& message);

 private:
  class Hub;
  class Client;
  std::unique_ptr<Hub> hub_;  // on rank 0
  std::unique_ptr<Client> client_;
};

}  // namespace weft
