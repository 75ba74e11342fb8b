// Bringing bf16 weights into the layout of packed_product.h, and rows back out of it.
#pragma once

#include "kernels/cpu/packed_product.h"
#include "kernels/linear.h"

namespace weft {

/// Pairs of input features, the last one filled up with zero.
constexpr int64_t num_pairs(int64_t in_features) {
  return (in_features + 1) / 2;
}
constexpr int64_t num_panels(int64_t out_features) {
  return (out_features + kPanelWidth - 1) / kPanelWidth;
}
/// Elements of one panel.
constexpr int64_t panel_elements(int64_t in_features) {
  return num_pairs(in_features) * 2 * kPanelWidth;
}

/// Bytes of a packed bf16 weight.
size_t packed_weight_bytes(int64_t out_features, int64_t in_features);

/// A matrix to be packed, its last panel filled up with zero rows.
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
