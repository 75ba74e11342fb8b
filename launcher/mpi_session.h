// The life of one rank: MPI if there is one, the watchdog, and an end that all ranks share.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "parallel/activity.h"
#include "parallel/communicator.h"

namespace weft {

class Watchdog;

/// True when mpirun, srun or another MPI launcher started this process.
bool started_by_mpi_launcher();

/// A warning for plain `mpirun -n 2 weft …`, which pins a rank to one core; empty when the cores suffice.
/// `allowed_cores` is what the rank may run on, `online_cores` what the machine has, `num_threads` what the rank wants
/// to use.
std::string binding_warning(int allowed_cores, int online_cores, int num_threads, int num_ranks);

class MpiSession {
 public:
  /// Starts MPI only in a process that an MPI launcher started; anything else is a single rank. With several ranks also
  /// starts the watchdog. If that fails prints one line and exits with code communication.
  MpiSession(int argc, char** argv);
  /// Ends MPI. If the other ranks do not follow within 10 s, ends the process with the command's exit code.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  std::shared_ptr<Communicator> world() const { return world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  /// Among the ranks of this node.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }

  /// What the watchdog says of this rank, should it freeze; collectives set the operation by themselves. Lock-free.
  /// `op` is a string literal.
  void set_activity(const char* op, int64_t step);
  /// From which step on the job can be started again, should a rank be lost; −1: from the beginning.
  void set_saved_step(int64_t step);
  /// binding_warning() for this rank; empty on all ranks but 0.
  std::string binding_warning(int num_threads) const;

  /// Runs a command's body, once, and returns its exit code, the same on every rank. Exceptions become one line on
  /// standard error and a code. When the body fails on some ranks only, those that still run are ended with its code
  /// within 5 s.
  int run(const std::function<int()>& body);

 private:
  void start_mpi(int argc, char** argv);
  void find_local_ranks();

  bool owns_mpi_ = false;
  int exit_code_ = 0;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::shared_ptr<Activity> activity_;
  std::shared_ptr<Communicator> world_;
  std::unique_ptr<Watchdog> watchdog_;
};

}  // namespace weft
