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

#include <cstdint>

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
  int64_t panel_bytes() const { return num_scale_vectors(num_groups_) * kVector + num_groups_ * group_bytes(); }
  /// Bytes of a group's codes.
  int64_t group_bytes() const { return kQuantizedPanelWidth * kQuantizationGroup / (is_int4_ ? 2 : 1); }
  /// Where they begin in a panel.
  int64_t codes_offset(int64_t group) const { return num_scale_vectors(group + 1) * kVector + group * group_bytes(); }
  /// Where a group's scales are.
  int64_t scales_offset(int64_t group) const {
    int64_t first = is_int4_ ? group : group / 2 * 2;
    return codes_offset(first) - kVector + (group - first) * kVector / 2;
  }

 private:
  static constexpr int64_t kVector = 64;
  /// Before the codes of the last of so many groups.
  int64_t num_scale_vectors(int64_t groups) const { return is_int4_ ? groups : (groups + 1) / 2; }

  bool is_int4_;
  int64_t num_groups_;
};

}  // namespace weft
