// Products of few rows of bf16 with quantized weights at the speed at which memory gives the weights (compute
// capability 9.0 and up), where the environment variable WEFT_QUANTIZED_STREAM=1 asks for them; else
// quantized_product.cu's.
#pragma once

#include <span>

#include "kernels/cuda/device.h"
#include "kernels/linear.h"

namespace weft::cuda {

/// args with these weights, eight at most and of one quantized layout, if it is a call for these kernels; returns false
/// with nothing queued else.
bool quantized_stream(const LinearForwardArgs& args, std::span<const LinearWeight> weights, CudaDevice& device);

/// The same for a gated product.
bool quantized_gated_stream(const GatedLinearArgs& args, CudaDevice& device);

}  // namespace weft::cuda
