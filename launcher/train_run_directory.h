// The folder of a training run, before the run begins.
#pragma once

#include "config/run_config.h"
#include "parallel/communicator.h"

namespace weft {

/// The folder of a run while it goes on: no other run may use it.
class RunDirectory {
 public:
  /// Makes output.directory and locks it. Waits some seconds for a run that is just ending. Collective, as all methods
  /// are: a failure on rank 0 is thrown on all ranks as Error(bad_input).
  RunDirectory(const RunConfig& config, Communicator& world);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  /// For a run that starts over, once all that the config names was opened.
  void delete_checkpoints();
  /// Once it is sure that the run goes on: writes the resolved config (config.textproto). Unless it starts over, says
  /// what differs from the one with which it was begun.
  void write_config(bool starts_over);

 private:
  std::string lock(const std::string& directory);

  RunConfig config_;
  Communicator& world_;
  int lock_file_ = -1;
};

}  // namespace weft
