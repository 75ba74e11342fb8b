// The GPUs of this machine, for callers above the kernels; without CUDA in the build there are none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/memory.h"

namespace weft {

struct CudaDeviceInfo {
  std::string name;
  int architecture = 0;  // compute capability, 90 for an H100
  int num_multiprocessors = 0;
  int64_t memory_bytes = 0, free_bytes = 0;
  std::string pci_bus_id;
};

/// GPUs that this process can use: 0 without CUDA in the build, without a driver, or when CUDA_VISIBLE_DEVICES hides
/// them.
int cuda_device_count();

/// Why the count is 0: "this build has no CUDA kernels", or what the driver says.
std::string no_cuda_reason();

CudaDeviceInfo cuda_device_info(int index);

/// Whether GPU `from` can read and write the memory of GPU `to` without the host; false where CUDA cannot say.
bool cuda_peer_access(int from, int to);

/// Memory of one GPU with a stream of its own, on which the CUDA kernels run that get it as their workspace. Throws
/// Error(usage) when there is no such GPU.
std::shared_ptr<Allocator> make_cuda_allocator(int index);

/// The cudaStream_t on which a GPU's allocator orders its work.
void* cuda_stream(const Allocator& allocator);

struct KernelTable;

/// The CUDA kernels of this build: all slots are empty without them.
const KernelTable& cuda_kernels();

}  // namespace weft
