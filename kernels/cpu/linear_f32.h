// Products of f32 with row-major weights: dot products of our own for a few rows, oneDNN for many.
#pragma once

#include "kernels/linear.h"

namespace weft {

bool linear_f32_forward(const LinearForwardArgs& args, const Stream& stream);
void linear_f32_backward_input(const LinearBackwardInputArgs& args, const Stream& stream);
/// dw only.
void linear_f32_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream);

}  // namespace weft
