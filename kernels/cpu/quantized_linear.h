// y = x · wᵀ + bias with quantized weights.
#pragma once

#include "kernels/linear.h"

namespace weft {

/// f32 or bf16; all weights of `args` are quantized. The activation is applied.
void quantized_linear_forward(const LinearForwardArgs& args, const Stream& stream);

}  // namespace weft
