// Bringing weights into the layout of packed_product.h, and rows back out of it.
#pragma once

#include "kernels/cpu/packed_product.h"
#include "kernels/linear.h"

namespace weft {

constexpr int64_t num_panels(int64_t out_features) {
  return (out_features + kPanelWidth - 1) / kPanelWidth;
}
/// Words of 4 bytes that a panel has for one output feature; a last single bf16 is joined with zero.
template <typename Element>
constexpr int64_t num_words(int64_t in_features) {
  constexpr auto kPerWord = static_cast<int64_t>(sizeof(uint32_t) / sizeof(Element));
  return (in_features + kPerWord - 1) / kPerWord;
}
/// Bytes of one panel.
template <typename Element>
constexpr int64_t panel_bytes(int64_t in_features) {
  return num_words<Element>(in_features) * kPanelWidth * static_cast<int64_t>(sizeof(uint32_t));
}
/// Elements of one panel.
template <typename Element>
constexpr int64_t panel_elements(int64_t in_features) {
  return panel_bytes<Element>(in_features) / static_cast<int64_t>(sizeof(Element));
}

/// Bytes of a packed or quantized weight for products in f32 or bf16; 0 for other types, which are not packed.
size_t packed_weight_bytes(int64_t out_features, int64_t in_features, DType dtype, Layout layout);

/// A bf16 matrix to be packed, its last panel filled up with zero rows.
struct PanelSource {
  const uint16_t* weight = nullptr;
  int64_t out_features = 0;  // seen by the product
  int64_t in_features = 0;
  int64_t stride = 0;  // elements from one row in memory to the next
};

/// Packs panels [begin, end) of a weight that lies [out_features, in_features], on the calling thread.
void pack_panels(const PanelSource& source, int64_t begin, int64_t end, uint16_t* packed);

/// The same for a weight that lies [in_features, out_features].
void pack_transposed_panels(const PanelSource& source, int64_t begin, int64_t end, uint16_t* packed);

void pack_weight(const PackArgs& args, const Stream& stream);
void unpack_weight_rows(const UnpackRowsArgs& args, const Stream& stream);

}  // namespace weft
