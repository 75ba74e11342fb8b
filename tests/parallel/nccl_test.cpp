// What NcclCommunicator makes of a library that fails, hangs, comes late or is not there. Ranks are processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "parallel/gpu_assignment.h"
#include "parallel/nccl_fixture.h"

namespace weft {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

TEST_F(NcclTest, AnErrorIsOneLineAndNoRankHangs) {
  const Setting failing(*world_, "WEFT_STAND_IN_FAIL_AT", "2", 1);
  auto nccl = make();
  Tensor tensor = on_gpu(1000);
  nccl->all_reduce(tensor, ReduceOp::sum);
  const std::string error = error_of([&] {
    nccl->all_reduce(tensor, ReduceOp::sum);
    // Elsewhere the call is queued, and its stream waits for rank 1.
    nccl->barrier();
  });
  if (world_->rank() == 1) {
    EXPECT_THAT(error,
                HasSubstr("NCCL all_reduce failed " + gpu_name() +
                          ": remote process exited or there was a network error: injected by the test"));
  } else {
    EXPECT_THAT(error, HasSubstr("NCCL barrier failed " + gpu_name() + ": the calls before it have not ended for 0.5"));
  }
  EXPECT_EQ(error_of([&] { nccl->broadcast(tensor, 0); }, milliseconds(50)), error);
  EXPECT_EQ(error_of([&] { nccl->barrier(); }, milliseconds(50)), error);
  EXPECT_EQ(error_of([&] { nccl->split(0, 0); }, milliseconds(50)), error);
}

TEST_F(NcclTest, AnErrorWhileTheGpuWorksEndsItsCalls) {
  const Setting late(*world_, "WEFT_STAND_IN_LATE_AT", "1");
  NcclOptions watchful = options();
  watchful.watch_interval = milliseconds(20);
  watchful.streams = make_fake_streams([] { return false; });
  watchful.deadline = milliseconds(10'000);
  auto nccl = make_nccl_communicator(*world_, watchful);
  Tensor tensor = on_gpu(1);
  nccl->all_reduce(tensor, ReduceOp::sum);
  // This thread is somewhere else when it happens.
  std::this_thread::sleep_for(milliseconds(1000));
  EXPECT_THAT(error_of([&] { nccl->broadcast(tensor, 0); }, milliseconds(50)),
              AllOf(HasSubstr("NCCL all_reduce failed " + gpu_name()), HasSubstr("the network is down")));
}

TEST_F(NcclTest, ACallThatIsNeverQueuedMeetsTheDeadline) {
  const Setting hanging(*world_, "WEFT_STAND_IN_HANG_AT", "1");
  auto nccl = make();
  Tensor part = on_gpu(10);
  Tensor all = on_gpu(10 * world_->size());
  EXPECT_THAT(error_of([&] { nccl->all_gather(part, all); }),
              AllOf(HasSubstr("NCCL all_gather failed " + gpu_name()), HasSubstr("have not answered for 0.5 s")));
}

TEST_F(NcclTest, ACallThatNeverEndsOnOneGpuMeetsTheDeadlineOnEveryRank) {
  const Setting stuck(*world_, "WEFT_STAND_IN_STUCK_AT", "1", 0);
  auto nccl = make();
  Tensor tensor = on_gpu(10);
  nccl->all_reduce(tensor, ReduceOp::sum);
  EXPECT_THAT(error_of([&] { nccl->barrier(); }), HasSubstr("have not ended for 0.5 s"));
}

TEST_F(NcclTest, ARankThatStartsTooLateEndsTheStartOnEveryRankWithOneMessage) {
  const Setting late(*world_, "WEFT_STAND_IN_START_MS", "60000", 1);
  NcclOptions impatient = options();
  impatient.start_deadline = milliseconds(300);
  EXPECT_THAT(error_of([&] { make_nccl_communicator(*world_, impatient); }),
              AllOf(HasSubstr("NCCL start failed on rank 0 of"), HasSubstr("have not answered for 0.3 s")));
}

TEST_F(NcclTest, ARankThatStartsLateIsWaitedFor) {
  const Setting late(*world_, "WEFT_STAND_IN_START_MS", "200", 1);
  Tensor tensor = on_gpu(1);
  make()->all_reduce(tensor, ReduceOp::sum);
}

TEST_F(NcclTest, ABarrierWaitsForTheStreamButNotForever) {
  NcclOptions never_idle = options();
  int num_questions = 0;
  never_idle.streams = make_fake_streams([&] {
    ++num_questions;
    return false;
  });
  auto nccl = make_nccl_communicator(*world_, never_idle);
  EXPECT_THAT(error_of([&] { nccl->barrier(); }),
              AllOf(HasSubstr("NCCL barrier failed"), HasSubstr("have not ended for 0.5 s")));
  EXPECT_GT(num_questions, 10);

  NcclOptions idle_soon = options();
  num_questions = 0;
  idle_soon.streams = make_fake_streams([&] { return ++num_questions == 5; });
  make_nccl_communicator(*world_, idle_soon)->barrier();
  EXPECT_EQ(num_questions, 5);
}

TEST_F(NcclTest, ALibraryThatIsMissingOrOldOnOneRankIsNamedOnAll) {
  NcclOptions missing = options();
  if (world_->rank() == 1) missing.library = "/nowhere/libnccl.so.2";
  EXPECT_THAT(error_of([&] { make_nccl_communicator(*world_, missing); }),
              AllOf(HasSubstr("NCCL cannot be loaded"), HasSubstr("/nowhere/libnccl.so.2")));

  const Setting old(*world_, "WEFT_STAND_IN_VERSION", "21604", 1);
  EXPECT_THAT(error_of([&] { make(); }), AllOf(HasSubstr("NCCL 2.16.4"), HasSubstr("2.18.0 or newer is needed")));
  EXPECT_EQ(no_nccl_reason(NCCL_STAND_IN).empty(), world_->rank() != 1);
}

TEST_F(NcclTest, TheEnvironmentNamesTheLibraryUnlessTheOptionsDo) {
  const Setting named(*world_, "WEFT_NCCL_LIBRARY", NCCL_STAND_IN);
  const Setting version(*world_, "WEFT_STAND_IN_VERSION", "23001");
  EXPECT_EQ(nccl_version(), "2.30.1");
  EXPECT_THAT(no_nccl_reason("/nowhere/libnccl.so.2"), HasSubstr("/nowhere"));
}

TEST_F(NcclTest, TensorsInHostMemoryGoThroughTheBootstrap) {
  // The stand-in refuses addresses of the host.
  auto nccl = make();
  Tensor tensor = Tensor::empty(make_cpu_allocator(), {1}, DType::f64);
  tensor.data<double>()[0] = world_->rank();
  nccl->all_reduce(tensor, ReduceOp::max);
  EXPECT_EQ(tensor.data<double>()[0], world_->size() - 1);

  Tensor all = on_gpu(2 * world_->size());
  EXPECT_THAT(error_of([&] { nccl->all_gather(tensor, all); }),
              HasSubstr("all_gather from a tensor on cpu 0 to one on cuda 0"));
}

TEST_F(NcclTest, AGroupOfOneRankUsesNcclOnlyWhenAskedTo) {
  // Its first call would fail.
  const Setting failing(*world_, "WEFT_STAND_IN_FAIL_AT", "1");
  auto alone = make()->split(world_->rank(), 0);
  Tensor tensor = on_gpu(3);
  const std::vector<float> values = {1, 2, 3};
  tensor.copy_from_host(values.data());
  Tensor copy = on_gpu(3);
  alone->all_reduce(tensor, ReduceOp::sum);
  alone->all_gather(tensor, copy);
  EXPECT_EQ(to_floats(copy), values);

  NcclOptions asked = options();
  asked.use_when_alone = true;
  auto with_nccl = make_nccl_communicator(*world_, asked)->split(world_->rank(), 0);
  EXPECT_THAT(error_of([&] { with_nccl->all_reduce(tensor, ReduceOp::sum); }), HasSubstr("on rank 0 of 1"));
}

TEST_F(NcclTest, RanksThatShareAGpuAreNoticed) {
  EXPECT_TRUE(ranks_have_own_gpus(*world_, fmt::format("0000:0{}:00.0", world_->rank())));
  EXPECT_FALSE(ranks_have_own_gpus(*world_, fmt::format("0000:0{}:00.0", world_->rank() / 2)));
}

TEST_F(NcclTest, TheWatchdogIsToldTheOperation) {
  auto nccl = make();
  EXPECT_STREQ(activity_->op(), "start of NCCL");
  Tensor tensor = on_gpu(1);
  nccl->all_reduce(tensor, ReduceOp::sum);
  EXPECT_STREQ(activity_->op(), "all_reduce");
  nccl->barrier();
  EXPECT_STREQ(activity_->op(), "barrier");
}

TEST_F(NcclTest, ARankThatLeavesWithAnExceptionDoesNotHoldUpItself) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    auto nccl = make();
    if (world_->rank() == 0) fail_input("rank 0 cannot read its file");
    Tensor tensor = on_gpu(1);
    nccl->all_reduce(tensor, ReduceOp::sum);
    nccl->barrier();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), world_->rank() == 0 ? ExitCode::bad_input : ExitCode::communication);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(3000));
}

}  // namespace
}  // namespace weft
