#include <cuda_runtime_api.h>

#include "core/error.h"
#include "parallel/stream_driver.h"

namespace weft {
namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  fail(ExitCode::failure, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

class CudaStreamDriver final : public StreamDriver {
 public:
  void use_device(int index) override {
    if (cudaSetDevice(index) == cudaSuccess) return;
    cudaGetLastError();
    fail(ExitCode::communication, "CUDA has no GPU {}", index);
  }

  bool is_idle(void* stream) override {
    const cudaError_t status = cudaStreamQuery(static_cast<cudaStream_t>(stream));
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    check(status, "the work on the GPU");
    return true;
  }

  std::shared_ptr<void> make_stream() override {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), "making a stream");
    return {stream, [](void* made) { cudaStreamDestroy(static_cast<cudaStream_t>(made)); }};
  }

  std::shared_ptr<void> record(void* stream) override {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    std::shared_ptr<void> recorded(event, [](void* made) { cudaEventDestroy(static_cast<cudaEvent_t>(made)); });
    check(cudaEventRecord(event, static_cast<cudaStream_t>(stream)), "recording an event");
    return recorded;
  }

  void wait(void* stream, void* event) override {
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0),
          "waiting for an event");
  }
};

}  // namespace

std::shared_ptr<StreamDriver> make_cuda_stream_driver() {
  return std::make_shared<CudaStreamDriver>();
}

}  // namespace weft
