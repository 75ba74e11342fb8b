#include "cuda/bare_cublas.h"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <cstdlib>

namespace weft {
namespace {

template <typename Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

/// cublasGemmEx, which C++ has twice.
using GemmEx = cublasStatus_t (*)(cublasHandle_t,
                                  cublasOperation_t,
                                  cublasOperation_t,
                                  int,
                                  int,
                                  int,
                                  const void*,
                                  const void*,
                                  cudaDataType,
                                  int,
                                  const void*,
                                  cudaDataType,
                                  int,
                                  const void*,
                                  void*,
                                  cudaDataType,
                                  int,
                                  cublasComputeType_t,
                                  cublasGemmAlgo_t);

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) std::abort();
}

}  // namespace

BareCublas::BareCublas(void* stream) {
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so"}) {
    library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library_ != nullptr) break;
  }
  if (library_ == nullptr) return;
  cublasHandle_t handle = nullptr;
  check(symbol<decltype(&cublasCreate_v2)>(library_, "cublasCreate_v2")(&handle));
  check(
      symbol<decltype(&cublasSetStream_v2)>(library_, "cublasSetStream_v2")(handle, static_cast<cudaStream_t>(stream)));
  handle_ = handle;
}

BareCublas::~BareCublas() {
  if (handle_ != nullptr) {
    symbol<decltype(&cublasDestroy_v2)>(library_, "cublasDestroy_v2")(static_cast<cublasHandle_t>(handle_));
  }
}

void BareCublas::multiply(const BareProduct& product) {
  static const auto gemm = symbol<GemmEx>(library_, "cublasGemmEx");
  const float one = 1, zero = 0;
  // cuBLAS counts by columns: what it sees are the transposes, in the other order.
  check(gemm(static_cast<cublasHandle_t>(handle_),
             product.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
             product.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
             static_cast<int>(product.n),
             static_cast<int>(product.m),
             static_cast<int>(product.k),
             &one,
             product.b,
             CUDA_R_16BF,
             static_cast<int>(product.transpose_b ? product.k : product.n),
             product.a,
             CUDA_R_16BF,
             static_cast<int>(product.transpose_a ? product.m : product.k),
             &zero,
             product.c,
             product.c_dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF,
             static_cast<int>(product.n),
             CUBLAS_COMPUTE_32F,
             CUBLAS_GEMM_DEFAULT));
}

}  // namespace weft
