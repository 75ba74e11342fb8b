// y = x · wᵀ + bias, for one weight or several that share their input.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

struct LinearParameters {
  const Tensor* weight = nullptr;  // [out_features, in_features], row-major or packed
  const Tensor* bias = nullptr;    // [out_features] or null
};

/// x is [rows, in_features], y [rows, out_features] of its dtype. Packed weights have no backward; quantized ones, dx.
Tensor linear(Context& context, const Tensor& x, const LinearParameters& parameters);

/// The same in parts of so many rows: `use` is given each part of the result when its product is queued, and may change
/// it.
Tensor linear_by_rows(Context& context,
                      const Tensor& x,
                      const LinearParameters& parameters,
                      int64_t rows_at_a_time,
                      const std::function<void(const Tensor& part)>& use);

/// One product a weight, x read once. `y_dtype` may be f32 for bf16 inputs (logits).
std::vector<Tensor> linear_group(Context& context,
                                 const Tensor& x,
                                 std::span<const LinearParameters> parameters,
                                 DType y_dtype);

/// activation(linear(x)); in one pass where nothing is recorded.
Tensor linear_activation(Context& context, const Tensor& x, const LinearParameters& parameters, Activation kind);

/// gated_activation of linear(x, gate) and linear(x, up).
Tensor gated_linear(Context& context, const Tensor& x, const Tensor& gate, const Tensor& up, Activation activation);

/// For backward passes: adds dy · weight to what a slot holds. A quantized weight is widened as a whole for it.
void add_product_grad(Context& context, GradSlot& slot, const Tensor& dy, const Tensor& weight);

}  // namespace weft
