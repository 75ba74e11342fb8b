// Products of bf16 with sums in f32, by our own kernels on packed weights (packed_product.h). A row-major weight is
// packed into scratch memory first, a few megabytes at a time; that costs one pass over it, little beside a product
// with many rows.
#pragma once

#include "kernels/cpu/packed_product.h"
#include "kernels/linear.h"

namespace weft {

/// Products with packed weights by the best instructions that may be used.
PackedProductFunction<uint16_t> packed_product_of_bf16();

/// Applies the activation to what packed weights give only.
void linear_bf16_forward(const LinearForwardArgs& args, const Stream& stream);
void linear_bf16_backward_input(const LinearBackwardInputArgs& args, const Stream& stream);
/// dw only; f32.
void linear_bf16_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream);

}  // namespace weft
