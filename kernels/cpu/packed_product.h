// Products with packed weights: one source (packed_product.inl), compiled once for each instruction set.
//
// Packed layout: panels of 16 output features. In bf16 a panel holds, for each pair of input features, 16 pairs (64
// bytes, one vector of vdpbf16ps): feature n, input k is element ((n / 16 · P + k / 2) · 16 + n % 16) · 2 + k % 2 with
// P = ⌈K / 2⌉. In f32 it holds 16 numbers for each input feature: element (n / 16 · K + k) · 16 + n % 16. What lies
// past N or K is zero. A panel is one contiguous stream, so that a matrix-vector product reads memory in order.
//
// This header declares plain data only: the files that include packed_product.inl are compiled for instructions that
// the linker must not let leak into other files by way of a shared inline function.
#pragma once

#include <cstdint>

namespace weft {

inline constexpr int64_t kPanelWidth = 16;

/// y[0, rows) × panels [panel_begin, panel_end) of one packed weight. Elements are uint16_t for bf16, or float.
template <typename Element>
struct PackedProduct {
  const Element* x = nullptr;  // [rows, x_stride], in_features used
  int64_t x_stride = 0;        // in elements
  int64_t rows = 0;
  int64_t in_features = 0;
  const Element* packed = nullptr;  // panel `packed_begin` and those after it
  int64_t packed_begin = 0;
  const Element* bias = nullptr;  // [out_features] or null
  void* y = nullptr;              // [rows, out_features]
  int64_t out_features = 0;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  bool y_is_f32 = sizeof(Element) == sizeof(float);
  bool accumulate = false;  // y += instead of y =
};

template <typename Element>
using PackedProductFunction = void (*)(const PackedProduct<Element>&);

void packed_product_portable(const PackedProduct<uint16_t>& product);
void packed_product_portable(const PackedProduct<float>& product);
void packed_product_avx2(const PackedProduct<uint16_t>& product);
void packed_product_avx2(const PackedProduct<float>& product);
void packed_product_avx512(const PackedProduct<uint16_t>& product);
void packed_product_avx512(const PackedProduct<float>& product);
void packed_product_avx512_bf16(const PackedProduct<uint16_t>& product);

}  // namespace weft
