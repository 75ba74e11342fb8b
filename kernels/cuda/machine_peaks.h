#pragma once

#include "core/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/linear.h"

namespace weft::cuda {

/// measure_machine_peaks (kernels/linear.h) of one GPU, by its own clock: memory read by a sum over more than its
/// caches hold, and products of large square matrices by cuBLASLt. `dtype` is f32 or bf16.
MachinePeaks measure_cuda_peaks(DType dtype, CudaDevice& device);

}  // namespace weft::cuda
