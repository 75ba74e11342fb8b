#include "kernels/cpu/packed_weights.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/quantized_weights.h"

namespace weft {
namespace {

/// Bytes that make a thread worthwhile.
constexpr int64_t kMinBytesPerThread = 32768;

uint32_t join_pair(uint16_t first, uint16_t second) {
  return first | static_cast<uint32_t>(second) << 16;
}

uint32_t read_pair(const uint16_t* pair) {
  uint32_t word = 0;
  std::memcpy(&word, pair, sizeof word);
  return word;
}

/// Interleaves one full panel, pair after pair; a last single feature is joined with zero.
void pack_full_panel(const uint16_t* rows, int64_t stride, int64_t in_features, uint32_t* words) {
  for (int64_t pair = 0; pair < in_features / 2; ++pair) {
    for (int64_t row = 0; row < kPanelWidth; ++row)
      words[pair * kPanelWidth + row] = read_pair(rows + row * stride + 2 * pair);
  }
  if (in_features % 2 == 0) return;
  for (int64_t row = 0; row < kPanelWidth; ++row) {
    words[in_features / 2 * kPanelWidth + row] = join_pair(rows[row * stride + in_features - 1], 0);
  }
}

void pack_partial_panel(const PanelSource& source, int64_t row_begin, int64_t num_rows, uint32_t* words) {
  std::fill(words, words + num_words<uint16_t>(source.in_features) * kPanelWidth, 0u);
  for (int64_t row = 0; row < num_rows; ++row) {
    const uint16_t* from = source.weight + (row_begin + row) * source.stride;
    for (int64_t k = 0; k < source.in_features; ++k) {
      words[k / 2 * kPanelWidth + row] |= static_cast<uint32_t>(from[k]) << (k % 2 * 16);
    }
  }
}

/// The words of the panel at `packed`, which is 64-byte aligned.
uint32_t* panel_words(uint16_t* packed, int64_t panel, int64_t in_features) {
  return reinterpret_cast<uint32_t*>(packed + panel * panel_elements<uint16_t>(in_features));
}

/// Packs one panel of f32; rows that it lacks are zero.
void pack_f32_panel(const float* rows, int64_t num_rows, int64_t in_features, float* packed) {
  for (int64_t k = 0; k < in_features; ++k) {
    for (int64_t row = 0; row < num_rows; ++row) packed[k * kPanelWidth + row] = rows[row * in_features + k];
    for (int64_t row = num_rows; row < kPanelWidth; ++row) packed[k * kPanelWidth + row] = 0;
  }
}

void pack_f32_panels(const PackArgs& args, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    int64_t row = panel * kPanelWidth;
    pack_f32_panel(static_cast<const float*>(args.rows) + row * args.in_features,
                   std::min(kPanelWidth, args.num_rows - row),
                   args.in_features,
                   static_cast<float*>(args.packed) + (args.row_begin + row) * args.in_features);
  }
}

void pack_bf16_panels(const PackArgs& args, int64_t begin, int64_t end) {
  PanelSource source = {.weight = static_cast<const uint16_t*>(args.rows),
                        .out_features = args.num_rows,
                        .in_features = args.in_features,
                        .stride = args.in_features};
  int64_t panel = args.row_begin / kPanelWidth + begin;
  pack_panels(
      source, begin, end, static_cast<uint16_t*>(args.packed) + panel * panel_elements<uint16_t>(args.in_features));
}

/// The words of an output feature, one after the other.
template <typename Element>
void unpack_row(const UnpackRowsArgs& args, int32_t index, Element* row) {
  if (index < 0) {
    std::fill(row, row + args.in_features, Element{0});
    return;
  }
  constexpr auto kPerWord = static_cast<int64_t>(sizeof(uint32_t) / sizeof(Element));
  const Element* panel = static_cast<const Element*>(args.packed) +
                         index / kPanelWidth * panel_elements<Element>(args.in_features) +
                         index % kPanelWidth * kPerWord;
  int64_t whole_words = args.in_features / kPerWord;
  for (int64_t word = 0; word < whole_words; ++word) {
    std::memcpy(row + word * kPerWord, panel + word * kPerWord * kPanelWidth, sizeof(uint32_t));
  }
  if (args.in_features % kPerWord != 0) row[args.in_features - 1] = panel[whole_words * kPerWord * kPanelWidth];
}

template <typename Element>
void unpack_rows(const UnpackRowsArgs& args, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    unpack_row(args, args.indices[i], static_cast<Element*>(args.rows) + i * args.in_features);
  }
}

}  // namespace

size_t packed_weight_bytes(int64_t out_features, int64_t in_features, DType dtype, Layout layout) {
  if (is_quantized(layout)) return quantized_weight_bytes(out_features, in_features, dtype, layout);
  if (dtype != DType::bf16 && dtype != DType::f32) return 0;
  int64_t panel = dtype == DType::bf16 ? panel_bytes<uint16_t>(in_features) : panel_bytes<float>(in_features);
  return static_cast<size_t>(num_panels(out_features) * panel);
}

void pack_panels(const PanelSource& source, int64_t begin, int64_t end, uint16_t* packed) {
  for (int64_t panel = begin; panel < end; ++panel) {
    int64_t row = panel * kPanelWidth;
    int64_t num_rows = std::min(kPanelWidth, source.out_features - row);
    uint32_t* words = panel_words(packed, panel - begin, source.in_features);
    if (num_rows == kPanelWidth) {
      pack_full_panel(source.weight + row * source.stride, source.stride, source.in_features, words);
    } else {
      pack_partial_panel(source, row, num_rows, words);
    }
  }
}

void pack_transposed_panels(const PanelSource& source, int64_t begin, int64_t end, uint16_t* packed) {
  for (int64_t panel = begin; panel < end; ++panel) {
    int64_t column = panel * kPanelWidth;
    int64_t num_columns = std::min(kPanelWidth, source.out_features - column);
    uint32_t* words = panel_words(packed, panel - begin, source.in_features);
    for (int64_t pair = 0; pair < num_words<uint16_t>(source.in_features); ++pair, words += kPanelWidth) {
      const uint16_t* first = source.weight + 2 * pair * source.stride + column;
      const uint16_t* second = 2 * pair + 1 < source.in_features ? first + source.stride : nullptr;
      for (int64_t i = 0; i < num_columns; ++i)
        words[i] = join_pair(first[i], second != nullptr ? second[i] : uint16_t{0});
      std::fill(words + num_columns, words + kPanelWidth, 0u);
    }
  }
}

void pack_weight(const PackArgs& args, const Stream& stream) {
  if (is_quantized(args.layout)) return pack_quantized_weight(args, stream);
  WEFT_ASSERT(packed_weight_bytes(1, 1, args.dtype, Layout::packed) != 0 && args.row_begin % kPackRowBlock == 0);
  WEFT_ASSERT(args.num_rows % kPackRowBlock == 0 || args.row_begin + args.num_rows == args.out_features);
  static_assert(kPackRowBlock % kPanelWidth == 0);
  auto pack = args.dtype == DType::bf16 ? pack_bf16_panels : pack_f32_panels;
  auto bytes = static_cast<int64_t>(packed_weight_bytes(1, args.in_features, args.dtype, Layout::packed));
  int64_t grain = kMinBytesPerThread / std::max<int64_t>(1, bytes) + 1;
  parallel_for(stream.num_threads, num_panels(args.num_rows), grain, [&](int64_t begin, int64_t end) {
    pack(args, begin, end);
  });
}

void unpack_weight_rows(const UnpackRowsArgs& args, const Stream& stream) {
  if (is_quantized(args.layout)) return unpack_quantized_rows(args, stream);
  WEFT_ASSERT(packed_weight_bytes(1, 1, args.dtype, Layout::packed) != 0);
  auto unpack = args.dtype == DType::bf16 ? unpack_rows<uint16_t> : unpack_rows<float>;
  auto row_bytes = args.in_features * static_cast<int64_t>(dtype_bytes(args.dtype));
  int64_t grain = kMinBytesPerThread / std::max<int64_t>(1, row_bytes) + 1;
  parallel_for(
      stream.num_threads, args.num_indices, grain, [&](int64_t begin, int64_t end) { unpack(args, begin, end); });
}

}  // namespace weft
