#include "kernels/cpu/quantized_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/parallel.h"

namespace weft {
namespace {

constexpr int64_t kGroup = kQuantizationGroup;
constexpr float kLargestHalf = 65504;
constexpr int kLargestInt8 = 127;
constexpr int kLargestInt4 = 15;

/// One group of one output feature.
struct Group {
  uint8_t codes[kGroup] = {};
  float16 scale, minimum;
};

/// To the nearest integer, ties to even, for less than 2²² in size: the additions round.
float round_to_integer(float value) {
  constexpr float kShift = 12582912;  // 1.5 · 2²³
  return (value + kShift) - kShift;
}

/// `range` / `steps` in f16, but never so small that the last code misses the end of the range by more than half a
/// step, as the rounding of very small numbers could make it.
float16 scale_of(float range, int steps) {
  float16 scale(std::min(range / static_cast<float>(steps), kLargestHalf));
  if (static_cast<float>(scale) * (static_cast<float>(steps) + 0.5f) < range && scale.bits < 0x7bff) ++scale.bits;
  return scale;
}

float16 not_a_number() {
  return float16(std::numeric_limits<float>::quiet_NaN());
}

/// codes[i] = (values[i] − minimum) / scale, rounded into [lowest, highest].
void round_codes(const float* values, int64_t count, float lowest, float highest, Group& group) {
  float scale(group.scale), minimum(group.minimum);
  if (scale == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    float code = std::clamp((values[i] - minimum) / scale, lowest, highest);
    group.codes[i] = static_cast<uint8_t>(static_cast<int8_t>(round_to_integer(code)));
  }
}

Group quantize_int8(const float* values, int64_t count) {
  Group group;
  float largest = 0;
  bool is_finite = true;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(values[i]));
    is_finite = is_finite && std::isfinite(values[i]);
  }
  if (!is_finite) {
    group.scale = not_a_number();
    return group;
  }
  group.scale = scale_of(largest, kLargestInt8);
  round_codes(values, count, -kLargestInt8, kLargestInt8, group);
  return group;
}

Group quantize_int4(const float* values, int64_t count) {
  Group group;
  float least = values[0], largest = values[0];
  bool is_finite = true;
  for (int64_t i = 0; i < count; ++i) {
    least = std::min(least, values[i]);
    largest = std::max(largest, values[i]);
    is_finite = is_finite && std::isfinite(values[i]);
  }
  if (!is_finite) {
    group.scale = group.minimum = not_a_number();
    return group;
  }
  group.minimum = float16(std::clamp(least, -kLargestHalf, kLargestHalf));
  group.scale = scale_of(std::max(0.0f, largest - static_cast<float>(group.minimum)), kLargestInt4);
  round_codes(values, count, 0, kLargestInt4, group);
  return group;
}

/// Where a code lies among those of its word: even input features first.
constexpr int64_t place_in_word(int64_t feature, int64_t per_word) {
  return feature / 2 + (feature % 2) * (per_word / 2);
}

/// A panel as it lies in memory.
struct PanelView {
  const QuantizedShape& shape;
  std::byte* panel;

  int64_t per_word() const { return shape.is_int4() ? 8 : 4; }
  float16* scales(int64_t group) const { return reinterpret_cast<float16*>(panel + shape.scales_offset(group)); }
  uint32_t* block(int64_t group, int64_t index) const {
    return reinterpret_cast<uint32_t*>(panel + shape.codes_offset(group)) + index * kPanelWidth;
  }

  void store(int64_t feature, int64_t group, const Group& from) const {
    scales(group)[feature] = from.scale;
    if (shape.is_int4()) scales(group)[kPanelWidth + feature] = from.minimum;
    int64_t bits = 32 / per_word();
    for (int64_t index = 0; index < kGroup / per_word(); ++index) {
      uint32_t word = 0;
      for (int64_t i = 0; i < per_word(); ++i) {
        word |= static_cast<uint32_t>(from.codes[index * per_word() + i]) << (bits * place_in_word(i, per_word()));
      }
      block(group, index)[feature] = word;
    }
  }

  /// All of a group's weights, beyond the last input feature too.
  void load(int64_t feature, int64_t group, float* weights) const {
    float scale(scales(group)[feature]);
    float minimum = shape.is_int4() ? static_cast<float>(scales(group)[kPanelWidth + feature]) : 0;
    int64_t bits = 32 / per_word();
    for (int64_t i = 0; i < kGroup; ++i) {
      uint32_t word = block(group, i / per_word())[feature];
      uint32_t shifted = word >> (bits * place_in_word(i % per_word(), per_word()));
      int code = shape.is_int4() ? static_cast<int>(shifted & 15u) : static_cast<int8_t>(shifted & 255u);
      weights[i] = scale * static_cast<float>(code) + minimum;
    }
  }
};

void pack_panel(const PackArgs& args, const QuantizedShape& shape, int64_t first_row) {
  auto* packed = static_cast<std::byte*>(args.packed);
  PanelView view{shape, packed + (args.row_begin + first_row) / kPanelWidth * shape.panel_bytes()};
  std::memset(view.panel, 0, static_cast<size_t>(shape.panel_bytes()));
  int64_t num_rows = std::min(kPanelWidth, args.num_rows - first_row);
  for (int64_t feature = 0; feature < num_rows; ++feature) {
    const float* row = static_cast<const float*>(args.rows) + (first_row + feature) * args.in_features;
    for (int64_t group = 0; group < shape.num_groups(); ++group) {
      const float* values = row + group * kGroup;
      int64_t count = std::min(kGroup, args.in_features - group * kGroup);
      view.store(feature, group, shape.is_int4() ? quantize_int4(values, count) : quantize_int8(values, count));
    }
  }
}

void unpack_row(const UnpackRowsArgs& args, const QuantizedShape& shape, int64_t place) {
  int64_t element_bytes = static_cast<int64_t>(dtype_bytes(args.dtype));
  std::byte* row = static_cast<std::byte*>(args.rows) + place * args.in_features * element_bytes;
  int32_t index = args.indices[place];
  if (index < 0) {
    std::memset(row, 0, static_cast<size_t>(args.in_features * element_bytes));
    return;
  }
  auto* packed = static_cast<std::byte*>(const_cast<void*>(args.packed));
  PanelView view{shape, packed + index / kPanelWidth * shape.panel_bytes()};
  for (int64_t group = 0; group < shape.num_groups(); ++group) {
    float weights[kGroup];
    view.load(index % kPanelWidth, group, weights);
    int64_t begin = group * kGroup;
    convert_dtype(
        weights, DType::f32, row + begin * element_bytes, args.dtype, std::min(kGroup, args.in_features - begin));
  }
}

}  // namespace

void pack_quantized_weight(const PackArgs& args, const Stream& stream) {
  WEFT_ASSERT(args.dtype == DType::f32 && args.row_begin % kPackRowBlock == 0);
  QuantizedShape shape(args.in_features, args.layout);
  parallel_for(stream.num_threads, num_panels(args.num_rows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) pack_panel(args, shape, panel * kPanelWidth);
  });
}

void unpack_quantized_rows(const UnpackRowsArgs& args, const Stream& stream) {
  constexpr int64_t kMinRowsPerThread = 16;
  QuantizedShape shape(args.in_features, args.layout);
  parallel_for(stream.num_threads, args.num_indices, kMinRowsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; ++place) unpack_row(args, shape, place);
  });
}

}  // namespace weft
