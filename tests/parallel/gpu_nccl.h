// NCCL between processes with real GPUs, or on one that they share.
#pragma once

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/cuda_devices.h"
#include "parallel/nccl_communicator.h"

namespace weft {

struct GpuRank {
  std::unique_ptr<Communicator> bootstrap;
  std::shared_ptr<Allocator> gpu;
  std::unique_ptr<Communicator> nccl;
};

/// Why there can be none, in one line; else empty. The same on all ranks of a host.
inline std::string no_gpu_rank_reason(const Communicator& ranks) {
  if (cuda_device_count() == 0) return no_cuda_reason();
  if (std::string reason = no_nccl_reason(); !reason.empty()) return reason;
  // NCCL 2.30 and up allows it where this is set.
  const char* may_share = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  if (cuda_device_count() >= ranks.size() || (may_share != nullptr && std::string_view(may_share) == "1")) return {};
  return "fewer GPUs than ranks, and NCCL_MULTI_RANK_GPU_ENABLE is not 1";
}

/// Collective.
inline GpuRank make_gpu_rank(std::unique_ptr<Communicator> bootstrap) {
  const int index = bootstrap->rank() % cuda_device_count();
  auto gpu = make_cuda_allocator(index);
  auto nccl = make_nccl_communicator(*bootstrap,
                                     {.stream = cuda_stream(*gpu),
                                      .device_index = index,
                                      .deadline = std::chrono::milliseconds(20'000),
                                      .check_calls = false});
  return {std::move(bootstrap), std::move(gpu), std::move(nccl)};
}

}  // namespace weft
