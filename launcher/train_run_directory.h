// The folder of a training run, before the run begins.
#pragma once

#include "autograd/context.h"
#include "config/run_config.h"

namespace weft {

/// The folder of a run while it goes on: no other run may use it.
class RunDirectory {
 public:
  /// Makes output.directory with the resolved config in it (config.textproto). In a folder that was begun with another
  /// config it says what differs; `starts_over` deletes its checkpoints. Waits some seconds for a run that is just
  /// ending. Collective: a failure on rank 0 is thrown on all ranks as Error(bad_input).
  RunDirectory(const RunConfig& config, Communicator& world, const Context& context, bool starts_over);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

 private:
  std::string lock(const std::string& directory);

  int lock_file_ = -1;
};

}  // namespace weft
