// An NcclCommunicator on the stand-in library and a fake GPU; ranks are processes.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "parallel/fake_device.h"
#include "parallel/nccl_communicator.h"

namespace weft {

using std::chrono::milliseconds;

/// An environment variable of this process, on one rank or all (-1), until the end of the test.
class Setting {
 public:
  Setting(const Communicator& world, const char* name, const std::string& value, int rank = -1) : name_(name) {
    if (rank < 0 || rank == world.rank()) setenv(name, value.c_str(), 1);
  }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

class NcclTest : public testing::Test {
 protected:
  NcclOptions options() {
    return {.stream = &fake_stream(*gpu_),
            .device_index = world_->rank(),
            .library = NCCL_STAND_IN,
            .start_deadline = milliseconds(10'000),
            .deadline = milliseconds(500),
            .check_calls = false,
            .activity = activity_,
            .streams = make_fake_streams()};
  }
  std::unique_ptr<Communicator> make() { return make_nccl_communicator(*world_, options()); }
  Tensor on_gpu(int64_t count) { return Tensor::zeros(gpu_, {count}, DType::f32); }
  std::string gpu_name() const {
    return fmt::format("on rank {} of {} (GPU {})", world_->rank(), world_->size(), world_->rank());
  }

  /// The message of the Error(communication) that `call` throws, in time.
  template <typename Call>
  std::string error_of(Call call, milliseconds within = milliseconds(5000)) {
    const auto begin = std::chrono::steady_clock::now();
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::communication);
      EXPECT_LT(std::chrono::steady_clock::now() - begin, within);
      EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("\n")));
      return error.what();
    }
    ADD_FAILURE() << "rank " << world_->rank() << ": no error";
    return {};
  }

  std::unique_ptr<Communicator> world_ = make_mpi_communicator();
  std::shared_ptr<Allocator> gpu_ = make_fake_device();
  std::shared_ptr<Activity> activity_ = std::make_shared<Activity>();
};

}  // namespace weft
