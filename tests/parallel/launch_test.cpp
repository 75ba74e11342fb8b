#include "launcher/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "parallel/watchdog_hub.h"

namespace weft {
namespace {

using testing::HasSubstr;

LaunchOptions options(int num_ranks) {
  LaunchOptions result;
  result.num_ranks = num_ranks;
  result.command = {"train", "configs/x.textproto"};
  return result;
}

LaunchEnvironment environment(int num_cores) {
  LaunchEnvironment result;
  result.program = "/opt/weft/bin/weft";
  result.num_cores = num_cores;
  return result;
}

std::string line(const LaunchOptions& launch_options, const LaunchEnvironment& launch_environment) {
  return quote_for_shell(launch_command(launch_options, launch_environment));
}

class Hostfile {
 public:
  explicit Hostfile(const std::string& text) : path_(testing::TempDir() + "hostfile") { std::ofstream(path_) << text; }
  ~Hostfile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(LaunchCommand, SharesTheCoresAmongTheRanks) {
  EXPECT_EQ(line(options(2), environment(16)),
            "mpirun -q -n 2 --bind-to none --map-by slot --oversubscribe -x OMP_NUM_THREADS=8 "
            "/opt/weft/bin/weft train configs/x.textproto");
  EXPECT_THAT(line(options(8), environment(2)), HasSubstr("OMP_NUM_THREADS=1 "));
}

TEST(LaunchCommand, KeepsTheUsersThreadsAndAllowsRoot) {
  LaunchEnvironment root = environment(16);
  root.is_root = true;
  root.omp_num_threads = "3";
  EXPECT_THAT(line(options(2), root), HasSubstr(" --allow-run-as-root -x OMP_NUM_THREADS=3 "));
}

TEST(LaunchCommand, ThreadsFollowTheSlotsOfAHost) {
  const Hostfile hostfile("# the cluster\nnode1 slots=4\nnode2 slots=4 max_slots=8 # spare\n\n");
  LaunchOptions with_hosts = options(8);
  with_hosts.hostfile = hostfile.path();
  EXPECT_EQ(ranks_per_host(with_hosts), 4);
  EXPECT_THAT(line(with_hosts, environment(16)), HasSubstr("--hostfile " + hostfile.path()));
  EXPECT_THAT(line(with_hosts, environment(16)), HasSubstr("OMP_NUM_THREADS=4 "));
  with_hosts.num_ranks = 20;  // more than there are slots: shared evenly
  EXPECT_EQ(ranks_per_host(with_hosts), 10);
}

TEST(LaunchCommand, SrunEndsAllRanksWhenOneFails) {
  LaunchOptions srun = options(4);
  srun.use_srun = true;
  EXPECT_EQ(line(srun, environment(8)),
            "srun -n 4 --mpi=pmix --cpu-bind=none --kill-on-bad-exit=1 --export=ALL,OMP_NUM_THREADS=2 "
            "/opt/weft/bin/weft train configs/x.textproto");
}

TEST(LaunchCommand, RefusesWhatCannotRun) {
  EXPECT_THROW(launch_command(options(0), environment(2)), Error);
  LaunchOptions nothing = options(2);
  nothing.command.clear();
  EXPECT_THROW(launch_command(nothing, environment(2)), Error);
  LaunchOptions no_file = options(2);
  no_file.hostfile = "/nonexistent/hostfile";
  EXPECT_THROW(launch_command(no_file, environment(2)), Error);
  const Hostfile empty("# nobody\n");
  no_file.hostfile = empty.path();
  EXPECT_THROW(launch_command(no_file, environment(2)), Error);
}

TEST(LaunchCommand, IsPrintedAsAShellWouldReadIt) {
  EXPECT_EQ(quote_for_shell({"weft", "--prompt", "it's a sea", "", "a=b"}), "weft --prompt 'it'\\''s a sea' '' a=b");
}

TEST(Launch, SaysWhatToInstallWhenMpirunIsMissing) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nonexistent", 1);
  try {
    run_launch(options(2));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_THAT(error.what(), HasSubstr("apt-get install openmpi-bin"));
  }
  setenv("PATH", path.c_str(), 1);
}

TEST(Judge, TheCauseComesBeforeItsConsequences) {
  EXPECT_EQ(judge({{0, {0, ""}}, {1, {0, ""}}}, 2).code, 0);
  const Verdict verdict = judge({{0, {5, "all_reduce failed"}}, {1, {3, "file is cut off"}}}, 3);
  EXPECT_EQ(verdict.code, 3);
  EXPECT_EQ(verdict.line, "rank 1: file is cut off");
  EXPECT_EQ(judge({{0, {3, "same"}}, {1, {3, "same"}}}, 2).line, "same");
  // The third rank has not failed, or not yet.
  EXPECT_EQ(judge({{0, {3, "same"}}, {1, {3, "same"}}}, 3).line, "rank 0: same");
  EXPECT_EQ(judge({{0, {0, ""}}, {1, {6, ""}}}, 2).code, 6);
}

TEST(DescribeEnd, NamesTheStepAndTheCheckpointWhereThereAreSuch) {
  EXPECT_EQ(describe_end("all_reduce", 0, -1), "last operation all_reduce; ending the job");
  EXPECT_EQ(describe_end("all_reduce", 27, 20),
            "last operation all_reduce, after step 27; ending the job; started again it goes on from the checkpoint of "
            "step 20");
}

}  // namespace
}  // namespace weft
