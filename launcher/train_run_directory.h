// The folder of a training run, before the run begins.
#pragma once

#include "config/run_config.h"
#include "parallel/communicator.h"

namespace weft {

/// The folder of a run while it goes on: no other run may use it.
class RunDirectory {
 public:
  /// Makes output.directory and locks it. Waits some seconds for a run that is just ending. Collective, as begin() is:
  /// a failure on rank 0 is thrown on all ranks as Error(bad_input).
  RunDirectory(const RunConfig& config, Communicator& world);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  /// Once all that the config names was opened: writes the resolved config (config.textproto). In a folder that was
  /// begun with another config it says what differs; `starts_over` deletes its checkpoints.
  void begin(bool starts_over);

 private:
  std::string lock(const std::string& directory);

  RunConfig config_;
  Communicator& world_;
  int lock_file_ = -1;
};

}  // namespace weft
