// Quantized weights (kernels/quantized_shape.h) on the GPU.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/linear.h"

namespace weft::cuda {

/// Rows of x that read the codes themselves, which then is all the work.
inline constexpr int64_t kMaxQuantizedRows = 16;

/// y = act(x · wᵀ + bias) for 1 to kMaxQuantizedRows rows of x; all weights are quantized.
void quantized_product(const LinearForwardArgs& args, CudaDevice& device);

/// Part of a quantized weight to be widened to row-major elements.
struct WidenArgs {
  const void* packed = nullptr;  // the weight's panels
  void* rows = nullptr;          // [num_rows, in_features]
  int64_t row_begin = 0;         // a multiple of 16
  int64_t num_rows = 0;
  int64_t in_features = 0;
  DType dtype = DType::bf16;  // of the rows: f32 or bf16, rounded once
  Layout layout = Layout::int8;
};

void widen_quantized_rows(const WidenArgs& args, CudaDevice& device);

/// LinearKernels::unpack_rows.
void unpack_quantized_rows(const UnpackRowsArgs& args, const Stream& stream);

}  // namespace weft::cuda
