// A matrix product on the calling thread whose factors fit a cache. Plain data only, as in packed_product.h.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace weft {

/// Widths are multiples of this: a whole number of vectors with every instruction set.
inline constexpr int64_t kSmallProductWidth = 16;

/// c[r, :] += Σ_step a[r·a_row + step·a_step] · b[step, :]; strides in elements.
struct SmallProductArgs {
  const void* a = nullptr;
  int64_t a_row = 0, a_step = 0;
  const void* b = nullptr;  // [steps, b_stride], width used
  int64_t b_stride = 0;
  void* c = nullptr;  // [rows, c_stride], width used
  int64_t c_stride = 0;
  int64_t rows = 0, steps = 0, width = 0;
  DType dtype = DType::f32;  // of all three: f32 or f64
};

}  // namespace weft
