// Products with packed bf16 weights: one source (packed_product.inl), compiled once for each instruction set.
//
// Packed layout: panels of 16 output features; a panel holds, for each pair of input features, 16 pairs (64 bytes, one
// vector of vdpbf16ps). Feature n, input k is element ((n / 16 · P + k / 2) · 16 + n % 16) · 2 + k % 2 with P = ⌈K /
// 2⌉; what lies past N or K is zero. A panel is one contiguous stream, so that a matrix-vector product reads memory in
// order.
//
// This header declares plain data only: the files that include packed_product.inl are compiled for instructions that
// the linker must not let leak into other files by way of a shared inline function.
#pragma once

#include <cstdint>

namespace weft {

inline constexpr int64_t kPanelWidth = 16;

/// y[0, rows) × panels [panel_begin, panel_end) of one packed weight.
struct PackedProduct {
  const uint16_t* x = nullptr;  // bf16 [rows, x_stride], in_features used
  int64_t x_stride = 0;         // in elements
  int64_t rows = 0;
  int64_t in_features = 0;
  const uint16_t* packed = nullptr;  // panel `packed_begin` and those after it
  int64_t packed_begin = 0;
  const uint16_t* bias = nullptr;  // bf16 [out_features] or null
  void* y = nullptr;               // [rows, out_features]
  int64_t out_features = 0;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  bool y_is_f32 = false;
  bool accumulate = false;  // y += instead of y =
};

using PackedProductFunction = void (*)(const PackedProduct&);

void packed_product_portable(const PackedProduct& product);
void packed_product_avx2(const PackedProduct& product);
void packed_product_avx512(const PackedProduct& product);
void packed_product_avx512_bf16(const PackedProduct& product);

}  // namespace weft
