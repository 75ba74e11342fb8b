// Products of a few f32 rows with a row-major weight, as dot products that read the weight once and in order.
// One source (dot_product.inl), compiled once for each instruction set; plain data only, as in packed_product.h.
#pragma once

#include <cstdint>

namespace weft {

/// y[0, rows) × out features [begin, end) = x · wᵀ + bias.
struct DotProduct {
  const float* x = nullptr;       // [rows, in_features]
  const float* weight = nullptr;  // [out_features, in_features]
  const float* bias = nullptr;    // [out_features] or null
  float* y = nullptr;             // [rows, out_features]
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t out_features = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

using DotProductFunction = void (*)(const DotProduct&);

void dot_product_portable(const DotProduct& product);
void dot_product_avx2(const DotProduct& product);
void dot_product_avx512(const DotProduct& product);

}  // namespace weft
