// How weights of 8 or 4 bits lie in memory, on every device.
//
// A panel is 16 output features (as in kernels/cpu/packed_product.h) and one contiguous stream. Each of its groups of
// 32 input features begins with 64 bytes of f16: for int4, 16 scales and 16 minima; for int8, the 16 scales of two
// groups, before the first of them. The codes follow in blocks of 64 bytes with a word of 32 bits for each output
// feature: 4 (int8) or 8 (int4) input features. Of a word's codes the lower 16 bits hold those of even input features,
// the upper ones those of odd: int8 0 2 | 1 3, int4 0 2 4 6 | 1 3 5 7, from the lowest bit. So a shift brings the codes
// of a pair of features to the lower ends of 16-bit lanes, as vdpbf16ps wants its pairs. int8 is two's complement.
// Input features beyond the last have code 0, output features beyond the last have scales and minima 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/linear.h"

namespace weft {

inline constexpr int64_t kQuantizedPanelWidth = 16;

/// Sizes of the panels of a weight.
class QuantizedShape {
 public:
  QuantizedShape(int64_t in_features, Layout layout)
      : is_int4_(layout == Layout::int4), num_groups_((in_features + kQuantizationGroup - 1) / kQuantizationGroup) {}

  bool is_int4() const { return is_int4_; }
  int64_t num_groups() const { return num_groups_; }
  int64_t num_panels(int64_t out_features) const {
    return (out_features + kQuantizedPanelWidth - 1) / kQuantizedPanelWidth;
  }
  /// Bytes of a panel.
  int64_t panel_bytes() const {
    return num_scale_vectors(is_int4_, num_groups_) * kVector + num_groups_ * group_bytes(is_int4_);
  }
  /// Where a group's codes begin in a panel.
  static constexpr int64_t codes_offset(bool is_int4, int64_t group) {
    return num_scale_vectors(is_int4, group + 1) * kVector + group * group_bytes(is_int4);
  }
  int64_t codes_offset(int64_t group) const { return codes_offset(is_int4_, group); }
  /// Where a group's scales are.
  static constexpr int64_t scales_offset(bool is_int4, int64_t group) {
    int64_t first = is_int4 ? group : group / 2 * 2;
    return codes_offset(is_int4, first) - kVector + (group - first) * kVector / 2;
  }
  int64_t scales_offset(int64_t group) const { return scales_offset(is_int4_, group); }

 private:
  static constexpr int64_t kVector = 64;
  /// Bytes of a group's codes.
  static constexpr int64_t group_bytes(bool is_int4) {
    return kQuantizedPanelWidth * kQuantizationGroup / (is_int4 ? 2 : 1);
  }
  /// Before the codes of the last of so many groups.
  static constexpr int64_t num_scale_vectors(bool is_int4, int64_t groups) {
    return is_int4 ? groups : (groups + 1) / 2;
  }

  bool is_int4_;
  int64_t num_groups_;
};

/// Bytes of a quantized weight for products in `dtype`; 0 but for f32 and bf16.
inline size_t quantized_weight_bytes(int64_t out_features, int64_t in_features, DType dtype, Layout layout) {
  if (dtype != DType::bf16 && dtype != DType::f32) return 0;
  QuantizedShape shape(in_features, layout);
  return static_cast<size_t>(shape.num_panels(out_features) * shape.panel_bytes());
}

/// Calls quantized(part) and whole(part) with the weights of each kind, where there are some.
template <typename Quantized, typename Whole>
void split_quantized(const LinearForwardArgs& args, const Quantized& quantized, const Whole& whole) {
  auto is_of_kind = [](const LinearWeight& weight) { return is_quantized(weight.layout); };
  // A product's weights are nearly always of one kind.
  if (std::none_of(args.weights.begin(), args.weights.end(), is_of_kind)) return whole(args);
  if (std::all_of(args.weights.begin(), args.weights.end(), is_of_kind)) return quantized(args);
  std::vector<LinearWeight> weights(args.weights.begin(), args.weights.end());
  auto middle = std::stable_partition(weights.begin(), weights.end(), is_of_kind);
  LinearForwardArgs part = args;
  part.weights = {weights.begin(), middle};
  quantized(part);
  part.weights = {middle, weights.end()};
  whole(part);
}

}  // namespace weft
