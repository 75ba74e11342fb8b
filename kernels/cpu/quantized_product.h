// Products with quantized weights (kernels/quantized_shape.h): one source, compiled once for each instruction set.
//
// Σ w·x over a group of 32 input features is scale · Σ code·x + minimum · Σ x. Codes are exact in bf16 and in f32, x is
// as given, sums are f32: nothing is rounded that a product with the weights scale · code + minimum would not round.
//
// Plain data only, as in packed_product.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weft {

/// y[0, rows) × panels [panel_begin, panel_end) of one quantized weight, for few rows: reading it is the bound.
struct QuantizedProduct {
  const void* x = nullptr;        // [rows, num_groups · 32], zero beyond in_features; bf16 for ..._bf16, else f32
  const float* x_sums = nullptr;  // [rows, num_groups]: of each group's x; for int4 only
  int64_t rows = 0;
  int64_t num_groups = 0;
  const std::byte* packed = nullptr;  // all panels
  int64_t panel_bytes = 0;
  const void* bias = nullptr;  // [out_features] or null
  void* y = nullptr;           // [rows, out_features]
  int64_t out_features = 0;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  bool is_int4 = false;
  bool bias_is_f32 = false;  // else bf16
  bool y_is_f32 = false;     // else bf16
};

using QuantizedProductFunction = void (*)(const QuantizedProduct&);

void quantized_product_portable(const QuantizedProduct& product);
void quantized_product_avx2(const QuantizedProduct& product);
void quantized_product_avx512(const QuantizedProduct& product);
void quantized_product_avx512_bf16(const QuantizedProduct& product);

/// One panel, to be widened into a panel of packed_product.h.
struct QuantizedPanel {
  const std::byte* panel = nullptr;
  int64_t in_features = 0;
  bool is_int4 = false;
  void* widened = nullptr;
  bool widens_to_f32 = false;  // else bf16, rounded to nearest
};

using WidenPanelFunction = void (*)(const QuantizedPanel&);

void widen_panel_portable(const QuantizedPanel& source);
void widen_panel_avx2(const QuantizedPanel& source);
void widen_panel_avx512(const QuantizedPanel& source);
void widen_panel_avx512_bf16(const QuantizedPanel& source);

}  // namespace weft
