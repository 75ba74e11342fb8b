// Real jobs under mpirun, maltreated. Time limits are the product's promises: a frozen rank ends the job within 20 s, a
// killed or failed one within 5 s.
#include "launcher/mpi_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "core/error.h"
#include "parallel/job_process.h"

namespace weft {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr seconds kFrozenLimit(20);
constexpr seconds kFailureLimit(5);
// For the start of mpirun on a loaded machine, and for jobs that end by themselves.
constexpr seconds kPatience(60);

std::vector<std::string> mpirun(int num_ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> line = {MPIRUN,
                                   "--allow-run-as-root",
                                   "--oversubscribe",
                                   "--bind-to",
                                   "none",
                                   "-n",
                                   std::to_string(num_ranks),
                                   SESSION_JOB};
  line.insert(line.end(), arguments.begin(), arguments.end());
  return line;
}

std::vector<std::string> errors(const JobProcess& job) {
  return job.lines_with("weft: error:");
}

TEST(MpiSession, AloneIsASingleRank) {
  JobProcess job({SESSION_JOB, "report"});
  EXPECT_EQ(job.wait(kPatience), 0);
  EXPECT_THAT(job.output(), HasSubstr("rank 0 of 1, local 0 of 1, single"));
}

TEST(MpiSession, AloneAnErrorIsOneLineAndItsCode) {
  JobProcess job({SESSION_JOB, "throw_everywhere"});
  EXPECT_EQ(job.wait(kPatience), static_cast<int>(ExitCode::bad_input));
  EXPECT_EQ(job.lines_with("weft:"),
            std::vector<std::string>{"weft: error: file model.safetensors: header is cut off"});
}

TEST(MpiSession, UnderMpirunEveryRankKnowsItsPlace) {
  JobProcess job(mpirun(3, {"report"}));
  EXPECT_EQ(job.wait(kPatience), 0);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_THAT(job.output(), HasSubstr(fmt::format("rank {} of 3, local {} of 3, mpi", rank, rank)));
  }
}

TEST(MpiSession, TheSameErrorOnAllRanksIsPrintedOnce) {
  JobProcess job(mpirun(4, {"throw_everywhere"}));
  EXPECT_EQ(job.wait(kPatience), static_cast<int>(ExitCode::bad_input));
  EXPECT_THAT(errors(job), ElementsAre("weft: error: file model.safetensors: header is cut off"));
}

TEST(MpiSession, OfDifferentErrorsTheLowestRanksIsPrinted) {
  JobProcess job(mpirun(4, {"throw_differently"}));
  EXPECT_EQ(job.wait(kPatience), static_cast<int>(ExitCode::bad_input));
  EXPECT_THAT(errors(job), ElementsAre("weft: error: rank 0: file model-0.safetensors: header is cut off"));
}

TEST(MpiSession, AnErrorOfOneRankEndsAllWithItsCode) {
  for (int rank : {0, 2}) {
    JobProcess job(mpirun(3, {"throw", std::to_string(rank)}));
    ASSERT_EQ(job.wait_until_ready(3).size(), 3u) << job.output();
    // Ranks 0 and 1 or 1 and 2 are inside a collective that can never end.
    EXPECT_EQ(job.wait(kFailureLimit), static_cast<int>(ExitCode::bad_input));
    EXPECT_THAT(
        errors(job),
        ElementsAre(fmt::format("weft: error: rank {}: file shard-{}.safetensors: header is cut off", rank, rank)));
  }
}

TEST(MpiSession, AnUnexpectedExceptionIsNamedAsOurs) {
  JobProcess job(mpirun(2, {"throw_unexpected", "1"}));
  ASSERT_EQ(job.wait_until_ready(2).size(), 2u) << job.output();
  EXPECT_EQ(job.wait(kFailureLimit), static_cast<int>(ExitCode::failure));
  EXPECT_THAT(errors(job), ElementsAre("weft: error: rank 1: internal error: nobody expected this"));
}

TEST(MpiSession, ACodeReturnedByOneRankIsEveryRanks) {
  JobProcess job(mpirun(3, {"return", "1"}));
  EXPECT_EQ(job.wait(kPatience), static_cast<int>(ExitCode::verification_failed));
  EXPECT_TRUE(errors(job).empty());
}

class MaltreatedRank : public testing::TestWithParam<int> {};

TEST_P(MaltreatedRank, FrozenIsNamedAndTheJobEnded) {
  JobProcess job(mpirun(3, {"work"}));
  const auto processes = job.wait_until_ready(3);
  ASSERT_EQ(processes.size(), 3u) << job.output();
  // Its last heartbeat shall come from within the work.
  std::this_thread::sleep_for(seconds(1));
  const pid_t victim = processes[static_cast<size_t>(GetParam())];
  kill(victim, SIGSTOP);
  EXPECT_EQ(job.wait(kFrozenLimit), static_cast<int>(ExitCode::communication));
  ASSERT_EQ(errors(job).size(), 1u) << job.output();
  EXPECT_THAT(errors(job)[0], HasSubstr(fmt::format("rank {} (host ", GetParam())));
  EXPECT_THAT(errors(job)[0], HasSubstr(fmt::format("process {}) is frozen", victim)));
  EXPECT_THAT(errors(job)[0], HasSubstr("last operation all_reduce, after step "));
}

TEST_P(MaltreatedRank, KilledIsNamedAndTheJobEnded) {
  JobProcess job(mpirun(3, {"work"}));
  const auto processes = job.wait_until_ready(3);
  ASSERT_EQ(processes.size(), 3u) << job.output();
  const pid_t victim = processes[static_cast<size_t>(GetParam())];
  kill(victim, SIGKILL);
  const int code = job.wait(kFailureLimit);
  // mpirun and the watchdog notice in the same millisecond: the code is the victim's signal or ours.
  EXPECT_TRUE(code == 128 + SIGKILL || code == static_cast<int>(ExitCode::communication)) << code;
  EXPECT_LE(errors(job).size(), 1u) << job.output();
  EXPECT_THAT(job.output(), HasSubstr(fmt::format("rank {}", GetParam())));
}

INSTANTIATE_TEST_SUITE_P(Ranks, MaltreatedRank, testing::Values(0, 1, 2));

TEST(MpiSession, ARankThatExitsOnItsOwnEndsTheJob) {
  JobProcess job(mpirun(3, {"exit", "1"}));  // may be gone before the others are ready
  EXPECT_GT(job.wait(kFailureLimit), 0);
  EXPECT_THAT(job.output(), HasSubstr("rank 1"));
}

TEST(MpiSession, ARankThatFreezesAtTheEndDoesNotHoldTheOthers) {
  JobProcess job(mpirun(3, {"report", "1"}));
  EXPECT_EQ(job.wait(kFrozenLimit), static_cast<int>(ExitCode::communication));
  EXPECT_THAT(errors(job), ElementsAre(HasSubstr("is frozen")));
}

TEST(MpiSession, ABusyMachineIsNoReasonToEndTheJob) {
  JobProcess job(mpirun(4, {"busy"}));
  EXPECT_EQ(job.wait(kPatience), 0) << job.output();
  EXPECT_TRUE(errors(job).empty());
}

TEST(MpiSession, AJobThatWasStoppedAsAWholeGoesOn) {
  JobProcess job(mpirun(3, {"work"}));
  const auto processes = job.wait_until_ready(3);
  ASSERT_EQ(processes.size(), 3u) << job.output();
  for (pid_t process : processes) kill(process, SIGSTOP);
  std::this_thread::sleep_for(seconds(10));
  for (pid_t process : processes) kill(process, SIGCONT);
  std::this_thread::sleep_for(seconds(2));
  kill(job.pid(), SIGUSR1);
  EXPECT_EQ(job.wait(kPatience), static_cast<int>(ExitCode::interrupted)) << job.output();
  EXPECT_THAT(errors(job), ElementsAre("weft: error: interrupted at a step that all ranks share"));
}

TEST(Launch, RunsTheRanksAndReturnsTheirCode) {
  JobProcess job({SESSION_JOB, "launch", "report"});
  EXPECT_EQ(job.wait(kPatience), 0);
  EXPECT_THAT(job.lines_with("weft: mpirun -q -n 3 "), ElementsAre(HasSubstr(" report")));
  EXPECT_THAT(job.lines_with("of 3, mpi"), testing::SizeIs(3));
  EXPECT_THAT(job.output(), Not(HasSubstr("OMP_NUM_THREADS -")));

  JobProcess failing({SESSION_JOB, "launch", "throw", "1"});
  EXPECT_EQ(failing.wait(kPatience), static_cast<int>(ExitCode::bad_input));
}

TEST(Launch, TurnsARequestToStopIntoAnOrderlyEndOfAllRanks) {
  for (int signal : {SIGTERM, SIGINT}) {
    JobProcess job({SESSION_JOB, "launch", "work"});
    ASSERT_EQ(job.wait_until_ready(3).size(), 3u) << job.output();
    // Ctrl-C reaches the whole process group, mpirun included; SIGTERM its one addressee.
    kill(signal == SIGINT ? -job.pid() : job.pid(), signal);
    EXPECT_EQ(job.wait(kPatience), static_cast<int>(ExitCode::interrupted)) << job.output();
    EXPECT_THAT(errors(job), ElementsAre("weft: error: interrupted at a step that all ranks share"));
  }
}

TEST(BindingWarning, SpeaksOnlyWhenCoresAreMissing) {
  EXPECT_EQ(binding_warning(8, 8, 8, 2), "");
  EXPECT_EQ(binding_warning(1, 8, 1, 2), "");
  EXPECT_EQ(binding_warning(1, 1, 4, 2), "");
  EXPECT_THAT(binding_warning(1, 8, 4, 2), HasSubstr("bound to 1 core but want 4 threads"));
  EXPECT_THAT(binding_warning(1, 8, 4, 2), HasSubstr("--bind-to none -n 2"));
}

}  // namespace
}  // namespace weft
