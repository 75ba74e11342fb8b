#include <gtest/gtest.h>

#include "parallel/conformance.h"
#include "parallel/fake_device.h"
#include "parallel/gpu_nccl.h"

namespace weft {
namespace {

void run_nccl(const std::function<void(Communicator&)>& body) {
  auto bootstrap = make_mpi_communicator();
  if (std::string reason = no_gpu_rank_reason(*bootstrap); !reason.empty()) GTEST_SKIP() << reason;
  GpuRank rank = make_gpu_rank(std::move(bootstrap));
  body(*on_device(std::move(rank.nccl), rank.gpu));
}

}  // namespace

std::vector<Backend> backends() {
  return {{.name = "nccl", .run = run_nccl, .compares_calls = false, .compares_messages = false, .keeps_nan = false}};
}

}  // namespace weft
