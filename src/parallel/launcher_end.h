// The end of a job that lost a host: its launcher may not end by itself.
#pragma once

#include <chrono>

namespace weft {

/// For a launcher that ends of its own accord, once its ranks have left.
constexpr std::chrono::seconds kLauncherPatience{10};

/// Leaves a process behind that kills this process's parent, if that is Open MPI's mpirun or one of its daemons and
/// still there after `patience`. mpirun tells the daemons of all hosts to end and waits for them: for one behind a
/// broken connection as long as TCP tries to reach it, which is a quarter of an hour. To be called by a rank that is
/// about to leave for good.
void end_launcher_after(std::chrono::milliseconds patience);

}  // namespace weft
