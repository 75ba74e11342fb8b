// Started calls of NcclCommunicator: they run beside the computing stream, and nothing of theirs is seen too early.
#include <algorithm>
#include <functional>
#include <thread>

#include "parallel/nccl_fixture.h"

namespace weft {
namespace {

using testing::Each;
using testing::HasSubstr;

class NcclOverlapTest : public NcclTest {
 protected:
  /// On the computing stream.
  void compute(std::function<void()> work) { fake_stream(*gpu_).enqueue(std::move(work)); }
  void compute_value(Tensor& tensor, float value) {
    compute([data = real_address<float>(tensor.raw()), count = tensor.num_elements(), value] {
      std::fill_n(data, count, value);
    });
  }
  Tensor with_value(int64_t count, float value) {
    Tensor tensor = Tensor::empty(gpu_, {count}, DType::f32);
    compute_value(tensor, value);
    return tensor;
  }
  float sum_of_ranks() const { return static_cast<float>(world_->size() * (world_->size() + 1)) / 2; }
  float own() const { return static_cast<float>(world_->rank() + 1); }
};

TEST_F(NcclOverlapTest, ComputingGoesOnUntilTheResultIsNeeded) {
  const Setting delay(*world_, "WEFT_STAND_IN_DELAY_MS", "300");
  auto nccl = make();
  ASSERT_TRUE(nccl->overlaps());
  Tensor sum = with_value(1000, own());
  world_->barrier();
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [begin] { return std::chrono::steady_clock::now() - begin; };
  PendingCall call = nccl->start_all_reduce(sum, ReduceOp::sum);
  Tensor computed = with_value(1000, 5);
  EXPECT_THAT(to_floats(computed), Each(5.0f));
  EXPECT_LT(elapsed(), milliseconds(250)) << "the computing stream has waited for the call";
  call.wait();
  EXPECT_LT(elapsed(), milliseconds(250)) << "the host has waited for the call";
  EXPECT_THAT(to_floats(sum), Each(sum_of_ranks()));
  EXPECT_GE(elapsed(), milliseconds(300));
}

TEST_F(NcclOverlapTest, AResultIsReadWhenItIsThere) {
  const Setting delay(*world_, "WEFT_STAND_IN_DELAY_MS", "50");
  auto nccl = make();
  Tensor part = with_value(70'000, own());
  Tensor all = on_gpu(70'000 * world_->size());
  PendingCall gather = nccl->start_all_gather(part, all);
  Tensor own_sum = on_gpu(70'000);
  PendingCall scatter = nccl->start_reduce_scatter(on_gpu(70'000 * world_->size()), own_sum, ReduceOp::max);
  gather.wait();
  Tensor copy = on_gpu(all.num_elements());
  copy.copy_from(all);
  scatter.wait();
  Tensor other_copy = on_gpu(70'000);
  other_copy.copy_from(own_sum);
  const std::vector<float> values = to_floats(copy);
  for (int rank = 0; rank < world_->size(); ++rank) {
    const auto begin = values.begin() + rank * 70'000;
    EXPECT_THAT(std::vector<float>(begin, begin + 70'000), Each(static_cast<float>(rank + 1)));
  }
  EXPECT_THAT(to_floats(other_copy), Each(0.0f));
}

TEST_F(NcclOverlapTest, ACallWaitsForWhatIsComputedBeforeIt) {
  auto nccl = make();
  Tensor tensor = on_gpu(100);
  compute([] { std::this_thread::sleep_for(milliseconds(50)); });
  compute_value(tensor, own());
  PendingCall call = nccl->start_all_reduce(tensor, ReduceOp::sum);
  call.wait();
  EXPECT_THAT(to_floats(tensor), Each(sum_of_ranks()));
}

TEST_F(NcclOverlapTest, MemoryIsNobodyElsesWhileACallGoesOn) {
  const Setting delay(*world_, "WEFT_STAND_IN_DELAY_MS", "50");
  auto nccl = make();
  Tensor sum = on_gpu(500);
  PendingCall call;
  {
    Tensor input = with_value(500 * world_->size(), own());
    call = nccl->start_reduce_scatter(input, sum, ReduceOp::sum);
  }
  // Blocks of this size that are free: not the input's.
  Tensor other = with_value(500 * world_->size(), -7);
  call.wait();
  EXPECT_THAT(to_floats(sum), Each(sum_of_ranks()));
  EXPECT_THAT(to_floats(other), Each(-7.0f));
}

TEST_F(NcclOverlapTest, ACallThatNobodyWaitsForLeavesItsMemoryInOrder) {
  const Setting delay(*world_, "WEFT_STAND_IN_DELAY_MS", "50");
  auto nccl = make();
  {
    Tensor sum = with_value(500, own());
    nccl->start_all_reduce(sum, ReduceOp::sum);
  }
  // The same block, written after the call has.
  Tensor next = with_value(500, -7);
  nccl->barrier();
  EXPECT_THAT(to_floats(next), Each(-7.0f));
}

TEST_F(NcclOverlapTest, CallsOfACommunicatorComeOneAfterTheOther) {
  const Setting delay(*world_, "WEFT_STAND_IN_DELAY_MS", "5");
  auto nccl = make();
  Tensor started = with_value(10, own());
  Tensor at_once = with_value(10, own());
  for (int round = 0; round < 10; ++round) {
    PendingCall call = nccl->start_all_reduce(started, ReduceOp::max);
    nccl->all_reduce(at_once, ReduceOp::max);
    call.wait();
  }
  nccl->barrier();
  EXPECT_THAT(to_floats(started), Each(static_cast<float>(world_->size())));
  EXPECT_THAT(to_floats(at_once), Each(static_cast<float>(world_->size())));
}

TEST_F(NcclOverlapTest, GroupsHaveStreamsOfTheirOwn) {
  const Setting delay(*world_, "WEFT_STAND_IN_DELAY_MS", "200");
  auto nccl = make();
  auto group = nccl->split(0, world_->rank());
  Tensor first = with_value(10, own());
  Tensor second = with_value(10, own());
  const auto begin = std::chrono::steady_clock::now();
  PendingCall slow = nccl->start_all_reduce(first, ReduceOp::sum);
  PendingCall beside = group->start_all_reduce(second, ReduceOp::sum);
  beside.wait();
  slow.wait();
  EXPECT_THAT(to_floats(second), Each(sum_of_ranks()));
  EXPECT_THAT(to_floats(first), Each(sum_of_ranks()));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(390));
}

TEST_F(NcclOverlapTest, WithoutOverlapAStartedCallIsDoneWhenItReturns) {
  NcclOptions plain = options();
  plain.overlap = false;
  auto nccl = make_nccl_communicator(*world_, plain);
  EXPECT_FALSE(nccl->overlaps());
  Tensor sum = with_value(10, own());
  PendingCall call = nccl->start_all_reduce(sum, ReduceOp::sum);
  EXPECT_THAT(to_floats(sum), Each(sum_of_ranks()));
  call.wait();
}

TEST_F(NcclOverlapTest, AStartedCallThatNeverEndsMeetsTheDeadline) {
  const Setting stuck(*world_, "WEFT_STAND_IN_STUCK_AT", "1", 0);
  auto nccl = make();
  Tensor sum = with_value(10, own());
  PendingCall call = nccl->start_all_reduce(sum, ReduceOp::sum);
  // The computing stream does not wait yet: the barrier looks at the other one too.
  EXPECT_THAT(error_of([&] { nccl->barrier(); }), HasSubstr("have not ended for 0.5 s"));
  EXPECT_THAT(error_of([&] { call.wait(); }), HasSubstr("have not ended for 0.5 s"));
  EXPECT_THAT(error_of([&] { nccl->start_all_reduce(sum, ReduceOp::sum); }), HasSubstr("have not ended for 0.5 s"));
  gpu_->synchronize();
}

TEST_F(NcclOverlapTest, AnErrorOfAStartedCallIsThrownToWhoeverWaits) {
  const Setting late(*world_, "WEFT_STAND_IN_LATE_AT", "1");
  NcclOptions watchful = options();
  watchful.watch_interval = milliseconds(20);
  auto nccl = make_nccl_communicator(*world_, watchful);
  Tensor sum = with_value(10, own());
  PendingCall call = nccl->start_all_reduce(sum, ReduceOp::sum);
  std::this_thread::sleep_for(milliseconds(1000));
  nccl = nullptr;
  EXPECT_THAT(error_of([&] { call.wait(); }), HasSubstr("the network is down"));
}

}  // namespace
}  // namespace weft
