// Rotary position embedding of queries and keys.
#pragma once

#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// Cosines and sines of a batch's positions: [rows, rotary_dim] in f32 (f64 for an f64 model).
Tensor rope_table(Context& context,
                  std::span<const int32_t> positions,
                  const std::vector<double>& inverse_frequency,
                  DType compute_dtype);

/// Rotates x [rows, heads · head_dim] in place and returns it; the argument must not be used after.
Tensor rope(Context& context, const Tensor& x, const Tensor& table, int64_t head_dim, bool interleaved = false);

}  // namespace weft
