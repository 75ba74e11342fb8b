#include "parallel/thread_communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "core/error.h"
#include "parallel/mesh.h"

namespace weft {
namespace {

Tensor ones(int64_t count) {
  return Tensor::zeros(make_cpu_allocator(), {count}, DType::f32);
}

TEST(ThreadCommunicator, ARankThatThrowsWakesTheOthersAndItsErrorWins) {
  std::atomic<int> num_woken = 0;
  try {
    run_thread_ranks(4, [&](const std::shared_ptr<Communicator>& world) {
      Mesh mesh(world, 2);
      if (world->rank() == 3) fail_input("rank 3 cannot read its file");
      Tensor tensor = ones(16);
      try {
        // Rank 2 waits within its tensor-parallel group, 0 and 1 in the world.
        mesh.tensor_parallel().all_reduce(tensor, ReduceOp::sum);
        world->all_reduce(tensor, ReduceOp::sum);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::communication);
        ++num_woken;
        throw;
      }
    });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 3 cannot read its file");
  }
  EXPECT_EQ(num_woken, 3);
}

TEST(ThreadCommunicator, ARankThatReturnsEarlyIsNamed) {
  try {
    run_thread_ranks(3, [](const std::shared_ptr<Communicator>& world) {
      if (world->rank() == 1) return;
      world->barrier();
    });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "rank 1 is gone");
  }
}

TEST(ThreadCommunicator, AReceiverLearnsThatItsSenderIsGone) {
  EXPECT_THROW(run_thread_ranks(2,
                                [](const std::shared_ptr<Communicator>& world) {
                                  if (world->rank() == 1) return;
                                  Tensor tensor = ones(1);
                                  world->receive(tensor, 1);
                                }),
               Error);
}

TEST(ThreadCommunicator, ABrokenGroupStaysBroken) {
  run_thread_ranks(2, [](const std::shared_ptr<Communicator>& world) {
    Tensor tensor = ones(world->rank() == 0 ? 4 : 5);
    EXPECT_THROW(world->all_reduce(tensor, ReduceOp::sum), Error);
    EXPECT_THROW(world->barrier(), Error);
  });
}

TEST(ThreadCommunicator, ManyRoundsOfEverythingAtDifferentSpeeds) {
  run_thread_ranks(4, [](const std::shared_ptr<Communicator>& world) {
    Mesh mesh(world, 2);
    Tensor tensor = ones(1000);
    for (int round = 0; round < 300; ++round) {
      if (round % 50 == world->rank()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      tensor.data<float>()[round] = static_cast<float>(world->rank() + 1);
      mesh.tensor_parallel().all_reduce(tensor, ReduceOp::max);
      mesh.data_parallel().all_reduce(tensor, ReduceOp::max);
      world->broadcast(tensor, round % 4);
      ASSERT_EQ(tensor.data<float>()[round], 4.0f);
    }
  });
}

}  // namespace
}  // namespace weft
