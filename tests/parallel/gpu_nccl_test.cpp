// Started calls beside real kernels: results are the same as in order, and memory is not used again too early.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "autograd/tape.h"
#include "ops/collective.h"
#include "parallel/gpu_nccl.h"

namespace weft {
namespace {

class GpuNcclTest : public testing::Test {
 protected:
  void SetUp() override {
    auto bootstrap = make_mpi_communicator();
    if (std::string reason = no_gpu_rank_reason(*bootstrap); !reason.empty()) GTEST_SKIP() << reason;
    ranks_ = make_gpu_rank(std::move(bootstrap));
    context_ = make_context(ranks_.gpu, 1);
    context_.tensor_parallel = ranks_.nccl.get();
  }

  int rank() const { return ranks_.nccl->rank(); }
  int size() const { return ranks_.nccl->size(); }

  Tensor scaled(const Tensor& x, double factor) {
    Tensor y = context_.empty(x.shape(), DType::f32);
    context_.kernels().elementwise.axpby({.x = x.raw(), .y = y.raw(), .count = x.num_elements(), .a = factor, .b = 0},
                                         context_.stream());
    return y;
  }
  Tensor random(const Shape& shape, uint64_t seed) {
    std::vector<float> values(static_cast<size_t>(shape.num_elements()));
    RandomKey key{.seed = seed};
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(key.bits(i) % 2001) / 1000.0f - 1.0f;
    Tensor tensor = context_.empty(shape, DType::f32);
    tensor.copy_from_host(values.data());
    return tensor;
  }

  GpuRank ranks_;
  Context context_;
};

void expect_near_in_norm(const Tensor& left, const Tensor& right, double tolerance) {
  const std::vector<float> a = to_floats(left), b = to_floats(right);
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(a[i] - b[i], 2);
    norm += std::pow(b[i], 2);
  }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm));
}

TEST_F(GpuNcclTest, MemoryIsUsedAgainWhenAStartedCallIsDone) {
  constexpr int kRounds = 30;
  for (int64_t count : {int64_t{5'000}, int64_t{1} << 20, int64_t{9} << 20}) {
    std::vector<float> ones(static_cast<size_t>(count * size()), 1.0f);
    Tensor base = context_.empty({count * size()}, DType::f32);
    base.copy_from_host(ones.data());
    std::vector<Tensor> heads;
    for (int round = 0; round < kRounds; ++round) {
      Tensor sum = context_.empty({count}, DType::f32);
      PendingCall call = ranks_.nccl->start_reduce_scatter(scaled(base, round + rank()), sum, ReduceOp::sum);
      // Wants the memory that the call reads.
      for (int i = 0; i < 3; ++i) scaled(base, -1000);
      call.wait();
      heads.push_back(scaled(sum.slice(0, 1000), 1));
      heads.push_back(scaled(sum.slice(count - 1000, count), 1));
    }
    for (size_t i = 0; i < heads.size(); ++i) {
      const auto round = static_cast<int>(i / 2);
      const auto expected = static_cast<float>(size() * round) + static_cast<float>(size() * (size() - 1)) / 2;
      EXPECT_EQ(to_floats(heads[i]), std::vector<float>(1000, expected)) << count << " elements, round " << round;
    }
  }
}

TEST_F(GpuNcclTest, AProductInHalvesIsSummedLikeAWhole) {
  Tensor x = random({4300, 512}, 1 + static_cast<uint64_t>(rank()));
  Tensor weight = random({384, 512}, 11 + static_cast<uint64_t>(rank()));
  Tensor whole = linear_reduced_from_tp(context_, x, {.weight = &weight}, int64_t{1} << 40);
  for (int round = 0; round < 5; ++round) {
    Tensor halves = linear_reduced_from_tp(context_, x, {.weight = &weight});
    expect_near_in_norm(halves, whole, 1e-5);
  }
}

TEST_F(GpuNcclTest, GradientsOfWeightsBesideASumAreTheSameToTheBit) {
  Tensor dy = random({4096, 384}, 5);
  std::vector<std::vector<float>> results;
  for (int64_t block : {int64_t{1}, int64_t{0}, int64_t{0}}) {
    Tape tape;
    context_.tape = &tape;
    Tensor x = random({4096, 512}, 1);
    Tensor weight = random({384, 512}, 11 + static_cast<uint64_t>(rank()));
    for (Tensor* tensor : {&x, &weight}) tensor->set_grad_slot(std::make_shared<GradSlot>());
    context_.block = 0;
    Tensor inside = copy_to_tp(context_, x);
    // Nothing is put off over the end of a block.
    context_.block = block;
    Tensor y = linear(context_, inside, {.weight = &weight});
    add_grad(context_, y.grad_slot(), dy);
    tape.backward(context_);
    context_.tape = nullptr;
    results.push_back(to_floats(take_grad(x.grad_slot())));
    results.push_back(to_floats(take_grad(weight.grad_slot())));
  }
  for (size_t i = 2; i < results.size(); ++i) EXPECT_EQ(results[i], results[i % 2]);
}

}  // namespace
}  // namespace weft
