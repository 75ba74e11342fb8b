// kernels/cuda_devices.h in a build without the CUDA Toolkit.
#include "core/error.h"
#include "kernels/cuda_devices.h"
#include "kernels/kernels.h"

namespace weft {

int cuda_device_count() {
  return 0;
}

std::string no_cuda_reason() {
  return "this build has no CUDA kernels";
}

CudaDeviceInfo cuda_device_info(int index) {
  fail(ExitCode::usage, "cuda:{}: {}", index, no_cuda_reason());
}

bool cuda_peer_access(int, int) {
  return false;
}

void* cuda_stream(const Allocator&) {
  return nullptr;
}

const KernelTable& cuda_kernels() {
  static const KernelTable none = {};
  return none;
}

std::shared_ptr<Allocator> make_cuda_allocator(int) {
  fail(ExitCode::usage, "--device cuda: {}; use --device cpu", no_cuda_reason());
}

}  // namespace weft
