// Processes that stand for mpirun and a rank of its.
#include "parallel/launcher_end.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace weft {
namespace {

using std::chrono::milliseconds;

/// A process called `name` that never ends, whose child is a rank that has lost another one; the rank has left.
pid_t start_launcher(const char* name, milliseconds patience) {
  const pid_t launcher = fork();
  if (launcher != 0) return launcher;
  prctl(PR_SET_NAME, name);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const pid_t rank = fork();
  if (rank == 0) {
    end_launcher_after(patience);
    _exit(5);
  }
  waitpid(rank, nullptr, 0);
  for (;;) pause();
}

TEST(LauncherEnd, KillsAnMpirunThatDoesNotEnd) {
  const pid_t launcher = start_launcher("mpirun", milliseconds(10));
  int status = 0;
  ASSERT_EQ(waitpid(launcher, &status, 0), launcher);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

TEST(LauncherEnd, LeavesOtherParentsAlone) {
  const pid_t parent = start_launcher("python3", milliseconds(1));
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_EQ(waitpid(parent, nullptr, WNOHANG), 0);
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
}

}  // namespace
}  // namespace weft
