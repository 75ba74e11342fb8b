#include "kernels/kernel_scratch.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace weft {
namespace {

// kernels/cpu/linear_bf16.cpp
constexpr int64_t kPackBytes = 4 << 20;
constexpr int64_t kFewRows = 16;
constexpr int64_t kMaxDepth = 4096;
constexpr int64_t kDepthBlock = 2048;
constexpr int64_t kTransposedFeatures = 1024;

// kernels/cpu/packed_tasks.h
constexpr int64_t kRowGranule = 8;
constexpr int64_t kRowBlockBytes = 512 << 10;
constexpr int64_t kCollidingBytes = 4096;
constexpr int64_t kSpreadBytes = 64;

// kernels/cpu/quantized_linear.cpp
constexpr int64_t kWidenedPanels = 2;

// Rows of a piece of attention: many share one packing of keys, yet there should be several pieces a thread.
constexpr int64_t kMaxRows = 256;
constexpr int64_t kMinRows = 48;
constexpr int64_t kPiecesPerThread = 6;

constexpr int64_t kFloatBytes = 4;
constexpr int64_t kBf16Bytes = 2;

/// Part of a [out_features, in_features] matrix packed on the fly.
int64_t pack_scratch(int64_t out_features, int64_t in_features) {
  auto packed_bytes = kernels(DeviceType::cpu).linear.packed_bytes;
  auto panel = std::max<int64_t>(1, static_cast<int64_t>(packed_bytes(1, in_features, DType::bf16, Layout::packed)));
  auto all = static_cast<int64_t>(packed_bytes(out_features, in_features, DType::bf16, Layout::packed));
  return std::min(std::max(panel, all), std::max(panel, kPackBytes / panel * panel));
}

}  // namespace

int64_t spread_rows_scratch(DType dtype, int64_t rows, int64_t columns, int num_threads) {
  int64_t row_bytes = columns * static_cast<int64_t>(dtype_bytes(dtype));
  if (dtype == DType::f64 || rows <= kFewRows || row_bytes % kCollidingBytes != 0) return 0;
  int64_t block = std::clamp(kRowBlockBytes / row_bytes / kRowGranule * kRowGranule, kRowGranule, rows);
  return std::max(1, num_threads) * block * (row_bytes + kSpreadBytes);
}

int64_t linear_forward_scratch(DType dtype, const LinearSizes& sizes, int num_threads) {
  // Weights in f32 that are trained are not packed.
  if (dtype != DType::bf16) return 0;
  return pack_scratch(sizes.out_features, sizes.in_features) +
         spread_rows_scratch(dtype, sizes.rows, sizes.in_features, num_threads);
}

int64_t quantized_linear_scratch(DType dtype, const LinearSizes& sizes, int num_threads) {
  int64_t groups = (sizes.in_features + kQuantizationGroup - 1) / kQuantizationGroup;
  auto element_bytes = static_cast<int64_t>(dtype_bytes(dtype));
  if (sizes.rows <= kFewRows) {
    return sizes.rows * groups * (kQuantizationGroup * element_bytes + kFloatBytes);
  }
  auto panel = kernels(DeviceType::cpu).linear.packed_bytes(1, sizes.in_features, dtype, Layout::packed);
  return std::max(1, num_threads) * kWidenedPanels * static_cast<int64_t>(panel);
}

int64_t linear_backward_input_scratch(DType dtype, const LinearSizes& sizes, int num_threads) {
  if (dtype != DType::bf16) return 0;
  if (sizes.out_features <= kMaxDepth || sizes.rows <= kFewRows) {
    return pack_scratch(sizes.in_features, sizes.out_features) +
           spread_rows_scratch(dtype, sizes.rows, sizes.out_features, num_threads);
  }
  return sizes.rows * (sizes.in_features * kFloatBytes + kDepthBlock * kBf16Bytes + kSpreadBytes) +
         pack_scratch(sizes.in_features, kDepthBlock);
}

int64_t linear_backward_weight_scratch(DType dtype, const LinearSizes& sizes) {
  if (dtype != DType::bf16) return 0;
  int64_t rows = sizes.rows <= kMaxDepth ? sizes.rows : kDepthBlock;
  int64_t stride_bytes = (rows + kRowGranule - 1) / kRowGranule * kRowGranule * kBf16Bytes + kSpreadBytes;
  return std::min(kTransposedFeatures, sizes.out_features) * stride_bytes + pack_scratch(sizes.in_features, rows);
}

int64_t rms_norm_backward_scratch(int64_t rows) {
  return rows * static_cast<int64_t>(sizeof(double)) + 1;
}

int64_t layer_norm_backward_scratch(int64_t rows) {
  return rows * 2 * static_cast<int64_t>(sizeof(double)) + 1;
}

int64_t queries_per_piece(int64_t rows, int64_t group, int num_threads) {
  int64_t rows_per_piece = std::clamp(rows / (std::max(num_threads, 1) * kPiecesPerThread), kMinRows, kMaxRows);
  return std::max<int64_t>(1, rows_per_piece / group);
}

int64_t decode_pieces(int64_t num_keys) {
  return (num_keys + kDecodeKeys - 1) / kDecodeKeys;
}

}  // namespace weft
