// Products of f32: with packed weights by our own kernels (packed_product.h); with row-major ones by dot products of
// our own for a few rows and by oneDNN for many.
#pragma once

#include "kernels/cpu/packed_product.h"
#include "kernels/linear.h"

namespace weft {

/// Products with packed weights by the best instructions that may be used.
PackedProductFunction<float> packed_product_of_f32();

/// Applies the activation to what packed weights give only.
void linear_f32_forward(const LinearForwardArgs& args, const Stream& stream);
void linear_f32_backward_input(const LinearBackwardInputArgs& args, const Stream& stream);
/// dw only.
void linear_f32_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream);

}  // namespace weft
