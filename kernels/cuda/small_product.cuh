// y = act(x · wᵀ + bias) for few rows of x, as in decoding, where reading the weights is all the work: every weight of
// a call is streamed once, in one launch.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/linear.h"

namespace weft::cuda {

/// Runs the call when it is one for these kernels (few rows) and returns true; else queues nothing.
bool small_product(const LinearForwardArgs& args, CudaDevice& device);

/// The same for a gated product.
bool small_gated_product(const GatedLinearArgs& args, CudaDevice& device);

}  // namespace weft::cuda
