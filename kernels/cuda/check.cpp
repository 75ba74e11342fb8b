#include "kernels/cuda/check.h"

#include "core/error.h"

namespace weft::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  ExitCode code = status == cudaErrorMemoryAllocation ? ExitCode::out_of_memory : ExitCode::failure;
  fail(code, "CUDA: {} failed: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

void fail_dtype(const char* kernel, DType dtype) {
  fail(ExitCode::failure, "{} on CUDA: no kernel for {}", kernel, dtype_name(dtype));
}

void require(bool condition, const char* kernel, const char* what) {
  if (!condition) fail(ExitCode::failure, "{} on CUDA: needs {}", kernel, what);
}

}  // namespace weft::cuda
