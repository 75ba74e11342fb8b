#include "parallel/conformance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "parallel/background_communicator.h"
#include "parallel/conformance_values.h"
#include "parallel/mesh.h"

namespace weft {
namespace {

class CommunicatorTest : public testing::TestWithParam<Backend> {
 protected:
  void run(const std::function<void(Communicator&)>& body) { GetParam().run(body); }
};

/// All kinds at a time, waited for from last to first.
void expect_started_calls(Communicator& world, DType dtype, int64_t count) {
  const int size = world.size();
  const std::string what = "started " + describe(world, dtype, count);
  Tensor sum = filled(dtype, count, world.rank());
  Tensor part = filled(dtype, count, world.rank());
  Tensor all = make({count * size}, dtype);
  Tensor whole = filled(dtype, count * size, world.rank());
  Tensor own = make({count}, dtype);
  PendingCall reduced = world.start_all_reduce(sum, ReduceOp::sum);
  PendingCall gathered = world.start_all_gather(part, all);
  PendingCall scattered = world.start_reduce_scatter(whole, own, ReduceOp::sum);
  scattered.wait();
  gathered.wait();
  reduced.wait();
  expect_elements(sum, what, [&](int64_t i) { return expected_reduction(dtype, ReduceOp::sum, size, i); });
  expect_elements(all, what, [&](int64_t i) { return stored(dtype, value(static_cast<int>(i / count), i % count)); });
  expect_elements(
      own, what, [&](int64_t i) { return expected_reduction(dtype, ReduceOp::sum, size, i + count * world.rank()); });
}

TEST_P(CommunicatorTest, StartedCallsGiveWhatCallsGive) {
  run([](Communicator& world) {
    auto background = make_background_communicator(world);
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (int64_t count : {1, 5, 4608, 65537}) {
        expect_started_calls(world, dtype, count);
        expect_started_calls(*background, dtype, count);
      }
    }
  });
}

TEST_P(CommunicatorTest, AllReduceEqualsTheReductionRoundedOnce) {
  run([](Communicator& world) {
    for (DType dtype : kReducible) {
      for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
        for (int64_t count : counts(dtype)) {
          Tensor tensor = filled(dtype, count, world.rank());
          world.all_reduce(tensor, op);
          expect_elements(tensor, describe(world, dtype, count), [&](int64_t i) {
            return expected_reduction(dtype, op, world.size(), i);
          });
        }
      }
    }
  });
}

TEST_P(CommunicatorTest, AllReduceGivesTheSameBitsOnEveryRank) {
  run([](Communicator& world) {
    for (int64_t count : {577, 200003}) {
      Tensor tensor = make({count}, DType::f32);
      for (int64_t i = 0; i < count; ++i) tensor.data<float>()[i] = std::sin(static_cast<float>(i * 13 + world.rank()));
      world.all_reduce(tensor, ReduceOp::sum);
      Tensor gathered = make({world.size(), count}, DType::f32);
      world.all_gather(tensor, gathered);
      for (int rank = 0; rank < world.size(); ++rank) {
        EXPECT_EQ(0, std::memcmp(gathered.slice(rank, rank + 1).raw(), tensor.raw(), tensor.bytes()))
            << "rank " << rank;
      }
    }
  });
}

TEST_P(CommunicatorTest, MaximumAndMinimumKeepNan) {
  if (!GetParam().keeps_nan) GTEST_SKIP();
  run([](Communicator& world) {
    for (int with_nan = 0; with_nan < world.size(); ++with_nan) {
      for (ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
        Tensor tensor = make({1}, DType::f32);
        if (world.rank() == with_nan) tensor.data<float>()[0] = std::numeric_limits<float>::quiet_NaN();
        world.all_reduce(tensor, op);
        EXPECT_TRUE(std::isnan(tensor.data<float>()[0]));
      }
    }
  });
}

TEST_P(CommunicatorTest, AllGatherOrdersByRank) {
  run([](Communicator& world) {
    for (DType dtype : kAll) {
      for (int64_t count : counts(dtype)) {
        Tensor input = filled(dtype, count, world.rank());
        Tensor output = make({world.size(), count}, dtype);
        world.all_gather(input, output);
        expect_elements(output, describe(world, dtype, count), [&](int64_t i) {
          return stored(dtype, value(static_cast<int>(i / count), i % count));
        });
      }
    }
  });
}

TEST_P(CommunicatorTest, ReduceScatterGivesEachRankItsPart) {
  run([](Communicator& world) {
    for (DType dtype : kReducible) {
      for (ReduceOp op : {ReduceOp::sum, ReduceOp::max}) {
        for (int64_t count : counts(dtype)) {
          Tensor input = filled(dtype, count * world.size(), world.rank());
          Tensor output = make({count}, dtype);
          world.reduce_scatter(input, output, op);
          expect_elements(output, describe(world, dtype, count), [&](int64_t i) {
            return expected_reduction(dtype, op, world.size(), world.rank() * count + i);
          });
        }
      }
    }
  });
}

TEST_P(CommunicatorTest, BroadcastReachesAllFromAnyRoot) {
  run([](Communicator& world) {
    for (DType dtype : kAll) {
      for (int root = 0; root < world.size(); ++root) {
        for (int64_t count : counts(dtype)) {
          Tensor tensor = filled(dtype, count, world.rank());
          world.broadcast(tensor, root);
          expect_elements(
              tensor, describe(world, dtype, count), [&](int64_t i) { return stored(dtype, value(root, i)); });
        }
      }
    }
  });
}

TEST_P(CommunicatorTest, SendAndReceiveGoRoundTheRing) {
  run([](Communicator& world) {
    if (world.size() == 1) {
      Tensor tensor = make({1}, DType::f32);
      EXPECT_THROW(world.send(tensor, 0), Error);
      EXPECT_THROW(world.receive(tensor, 1), Error);
      return;
    }
    const int next = (world.rank() + 1) % world.size();
    const int previous = (world.rank() + world.size() - 1) % world.size();
    for (DType dtype : kAll) {
      for (int64_t count : counts(dtype)) {
        Tensor sent = filled(dtype, count, world.rank());
        Tensor received = make({count}, dtype);
        if (world.rank() % 2 == 0) world.send(sent, next);
        world.receive(received, previous);
        if (world.rank() % 2 != 0) world.send(sent, next);
        expect_elements(
            received, describe(world, dtype, count), [&](int64_t i) { return stored(dtype, value(previous, i)); });
      }
    }
  });
}

TEST_P(CommunicatorTest, NobodyPassesABarrierBeforeAllHaveReachedIt) {
  run([](Communicator& world) {
    for (int round = 0; round < 20; ++round) {
      // Messages sent before the barrier are there after it, whoever is slow.
      world.barrier();
      Tensor flag = make({1}, DType::i64);
      flag.data<int64_t>()[0] = round;
      world.all_reduce(flag, ReduceOp::min);
      EXPECT_EQ(flag.data<int64_t>()[0], round);
    }
  });
}

TEST_P(CommunicatorTest, SplitOrdersByKeyThenRank) {
  run([](Communicator& world) {
    auto reversed = world.split(0, -world.rank());
    EXPECT_EQ(reversed->size(), world.size());
    EXPECT_EQ(reversed->rank(), world.size() - 1 - world.rank());

    auto parity = world.split(world.rank() % 2, 0);
    EXPECT_EQ(parity->size(), (world.size() + 1 - world.rank() % 2) / 2);
    EXPECT_EQ(parity->rank(), world.rank() / 2);
    Tensor ranks = make({1}, DType::i32);
    ranks.data<int32_t>()[0] = world.rank();
    parity->all_reduce(ranks, ReduceOp::min);
    EXPECT_EQ(ranks.data<int32_t>()[0], world.rank() % 2);
    // The parts work on their own: here a different number of times each.
    for (int i = 0; i <= world.rank() % 2; ++i) parity->barrier();
    world.barrier();
  });
}

TEST_P(CommunicatorTest, MeshPutsTensorParallelRanksSideBySide) {
  GetParam().run([](Communicator& world) {
    std::shared_ptr<Communicator> all = world.split(0, 0);
    if (world.size() % 2 != 0) {
      EXPECT_THROW(Mesh(all, 2), Error);
      return;
    }
    Mesh mesh(all, 2);
    EXPECT_EQ(mesh.tensor_parallel().size(), 2);
    EXPECT_EQ(mesh.tensor_parallel().rank(), world.rank() % 2);
    EXPECT_EQ(mesh.data_parallel().size(), world.size() / 2);
    EXPECT_EQ(mesh.data_parallel().rank(), world.rank() / 2);
    EXPECT_EQ(Mesh(all, 0).tensor_parallel().size(), world.size());
  });
}

TEST_P(CommunicatorTest, WrongArgumentsAreErrorsBeforeAnythingIsSent) {
  run([](Communicator& world) {
    Tensor f32 = make({4}, DType::f32);
    Tensor f64 = make({4 * world.size()}, DType::f64);
    Tensor short_output = make({4 * world.size() + 1}, DType::f32);
    Tensor bytes = make({4}, DType::u8);
    Tensor undefined;
    EXPECT_THROW(world.all_gather(f32, f64), Error);
    EXPECT_THROW(world.all_gather(f32, short_output), Error);
    EXPECT_THROW(world.reduce_scatter(short_output, f32, ReduceOp::sum), Error);
    EXPECT_THROW(world.all_reduce(bytes, ReduceOp::sum), Error);
    EXPECT_THROW(world.all_reduce(undefined, ReduceOp::sum), Error);
    EXPECT_THROW(world.broadcast(f32, world.size()), Error);
    world.barrier();
  });
}

/// What every rank gets when rank 1 calls something else than the others.
void expect_mismatch(Communicator& world, const std::function<void(bool is_odd_one)>& call, const std::string& named) {
  try {
    call(world.rank() == 1);
    ADD_FAILURE() << "rank " << world.rank() << " noticed nothing";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::communication);
    EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
  }
}

TEST_P(CommunicatorTest, MismatchThrowsOnEveryRank) {
  // MPI itself has no way to notice: messages are compared on request.
  if (!GetParam().compares_calls) GTEST_SKIP();
  auto mismatch = [this](const std::string& named, const std::function<void(Communicator&, bool)>& call) {
    run([&](Communicator& world) {
      if (world.size() == 1) return;
      expect_mismatch(
          world, [&](bool odd) { call(world, odd); }, named);
    });
  };
  mismatch("f32 [8], rank 1 calls all_reduce(sum) of f32 [7]", [](Communicator& world, bool odd) {
    Tensor tensor = make({odd ? 7 : 8}, DType::f32);
    world.all_reduce(tensor, ReduceOp::sum);
  });
  // One side small enough for shared memory, the other not.
  mismatch("rank 1 calls all_reduce(sum) of f32 [800000]", [](Communicator& world, bool odd) {
    Tensor tensor = make({odd ? 800000 : 8}, DType::f32);
    world.all_reduce(tensor, ReduceOp::sum);
  });
  mismatch("all_reduce(max)", [](Communicator& world, bool odd) {
    Tensor tensor = make({8}, DType::f32);
    world.all_reduce(tensor, odd ? ReduceOp::max : ReduceOp::sum);
  });
  mismatch("i32 [8]", [](Communicator& world, bool odd) {
    Tensor tensor = make({8}, odd ? DType::i32 : DType::f32);
    world.broadcast(tensor, 0);
  });
  mismatch("rank 1 calls barrier", [](Communicator& world, bool odd) {
    Tensor tensor = make({8}, DType::f32);
    if (odd) return world.barrier();
    world.all_reduce(tensor, ReduceOp::sum);
  });
}

TEST_P(CommunicatorTest, ReceiverNoticesAnotherSizeOrType) {
  if (!GetParam().compares_messages) GTEST_SKIP();
  run([](Communicator& world) {
    if (world.size() != 2) return;
    Tensor tensor = make({world.rank() == 0 ? 8 : 7}, DType::f32);
    if (world.rank() == 0) return world.send(tensor, 1);
    EXPECT_THROW(world.receive(tensor, 0), Error);
  });
  run([](Communicator& world) {
    if (world.size() != 2) return;
    Tensor tensor = make({8}, world.rank() == 0 ? DType::f32 : DType::i32);
    if (world.rank() == 0) return world.send(tensor, 1);
    EXPECT_THROW(world.receive(tensor, 0), Error);
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, CommunicatorTest, testing::ValuesIn(backends()), [](const auto& instance) {
  return instance.param.name;
});

}  // namespace
}  // namespace weft
