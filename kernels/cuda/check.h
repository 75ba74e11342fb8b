// Errors of the CUDA runtime as errors of ours.
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"

namespace weft::cuda {

/// Throws Error(out_of_memory or failure): "CUDA: WHAT failed: REASON".
void check(cudaError_t status, const char* what);

/// What the launch before this line reported. Faults inside a kernel surface at the next synchronisation.
void check_launch(const char* kernel);

/// "KERNEL on CUDA: no kernel for f64".
[[noreturn]] void fail_dtype(const char* kernel, DType dtype);

/// Throws Error(failure) "KERNEL on CUDA: needs WHAT" unless the condition holds. (core/error.h's fmt does not pass
/// through nvcc.)
void require(bool condition, const char* kernel, const char* what);

}  // namespace weft::cuda
