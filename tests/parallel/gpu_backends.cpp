// The communicators on the memory of a real GPU, in one process: NCCL with a single rank (it wants a GPU for each),
// staging with two ranks that share the GPU. Without a GPU every test says that it was skipped.
#include <gtest/gtest.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda_devices.h"
#include "parallel/conformance.h"
#include "parallel/fake_device.h"
#include "parallel/nccl_communicator.h"
#include "parallel/staged_communicator.h"
#include "parallel/thread_communicator.h"

namespace weft {
namespace {

void run_staged(const std::function<void(Communicator&)>& body) {
  if (cuda_device_count() == 0) GTEST_SKIP() << no_cuda_reason();
  run_thread_ranks(2, [&](const std::shared_ptr<Communicator>& world) {
    body(*on_device(make_staged_communicator(world), make_cuda_allocator(0)));
  });
}

void run_nccl(const std::function<void(Communicator&)>& body) {
  if (cuda_device_count() == 0) GTEST_SKIP() << no_cuda_reason();
  if (const std::string reason = no_nccl_reason(); !reason.empty()) GTEST_SKIP() << reason;
  auto gpu = make_cuda_allocator(0);
  auto bootstrap = make_single_communicator();
  auto nccl = make_nccl_communicator(*bootstrap,
                                     {.stream = static_cast<cuda::CudaDevice&>(*gpu).stream(),
                                      .device_index = 0,
                                      .check_calls = false,
                                      .use_when_alone = true});
  body(*on_device(std::move(nccl), gpu));
}

}  // namespace

std::vector<Backend> backends() {
  return {{.name = "staged_threads_2", .run = run_staged},
          {.name = "nccl_alone", .run = run_nccl, .compares_calls = false, .compares_messages = false}};
}

}  // namespace weft
