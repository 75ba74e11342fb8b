#include "kernels/cpu/linear_bf16.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear_transpose.h"
#include "kernels/cpu/packed_tasks.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

using Product = PackedProduct<uint16_t>;

/// Scratch for a row-major weight that is packed on the fly.
constexpr int64_t kPackBytes = 4 << 20;
/// Longer sums are cut into blocks, so that two panels of a tile stay in a core's second-level cache.
constexpr int64_t kMaxDepth = 4096;
constexpr int64_t kDepthBlock = 2048;
/// Output features whose gradients are transposed at a time.
constexpr int64_t kTransposedFeatures = 1024;
constexpr int64_t kTransposeGrain = 32;
/// Rows a power of two apart would share a few sets of the first-level cache.
constexpr int64_t kStridePadding = kSpreadBytes / static_cast<int64_t>(sizeof(uint16_t));
constexpr int64_t kColumnStride = kDepthBlock + kStridePadding;

void run_product(const Product& product, const Stream& stream) {
  run_packed_products<uint16_t>({&product, 1}, packed_product_of_bf16(), Activation::identity, stream);
}

Product packed_forward(const LinearForwardArgs& args, const LinearWeight& weight) {
  return {.x = static_cast<const uint16_t*>(args.x),
          .x_stride = args.in_features,
          .rows = args.rows,
          .in_features = args.in_features,
          .packed = static_cast<const uint16_t*>(weight.weight),
          .bias = static_cast<const uint16_t*>(weight.bias),
          .y = weight.y,
          .out_features = weight.out_features,
          .panel_begin = 0,
          .panel_end = num_panels(weight.out_features),
          .y_is_f32 = args.y_dtype == DType::f32};
}

using PackFunction = void (*)(const PanelSource&, int64_t begin, int64_t end, uint16_t* packed);

/// Packs a matrix a few megabytes at a time and calls body(packed, panel_begin, panel_end) for each part.
template <typename Body>
void for_packed_parts(const PanelSource& source, PackFunction pack, const Stream& stream, const Body& body) {
  int64_t elements = panel_elements<uint16_t>(source.in_features);
  int64_t panels = num_panels(source.out_features);
  int64_t block = std::clamp<int64_t>(kPackBytes / std::max<int64_t>(1, elements * 2), 1, std::max<int64_t>(1, panels));
  Scratch scratch(stream, static_cast<size_t>(std::max<int64_t>(1, block * elements)) * sizeof(uint16_t));
  auto* packed = reinterpret_cast<uint16_t*>(scratch.data());
  for (int64_t begin = 0; begin < panels; begin += block) {
    int64_t end = std::min(panels, begin + block);
    parallel_for(stream.num_threads, end - begin, 1, [&](int64_t from, int64_t to) {
      pack(source, begin + from, begin + to, packed + from * elements);
    });
    body(packed, begin, end);
  }
}

/// `product` with a weight that is not packed yet.
void multiply_unpacked(Product product, const PanelSource& source, PackFunction pack, const Stream& stream) {
  for_packed_parts(source, pack, stream, [&](const uint16_t* packed, int64_t begin, int64_t end) {
    product.packed = packed;
    product.packed_begin = begin;
    product.panel_begin = begin;
    product.panel_end = end;
    run_product(product, stream);
  });
}

/// dx = dy · w as long as the panels of wᵀ fit a core's cache.
void multiply_by_weight(const LinearBackwardInputArgs& args, const Stream& stream) {
  Product product = {.x = static_cast<const uint16_t*>(args.dy),
                     .x_stride = args.out_features,
                     .rows = args.rows,
                     .in_features = args.out_features,
                     .y = args.dx,
                     .out_features = args.in_features,
                     .accumulate = args.accumulate};
  PanelSource source = {.weight = static_cast<const uint16_t*>(args.weight),
                        .out_features = args.in_features,
                        .in_features = args.out_features,
                        .stride = args.in_features};
  multiply_unpacked(product, source, pack_transposed_panels, stream);
}

/// Columns [begin, end) of dy, row by row, kColumnStride apart.
void copy_columns(const LinearBackwardInputArgs& args, int64_t begin, int64_t end, uint16_t* to, int num_threads) {
  const uint16_t* from = static_cast<const uint16_t*>(args.dy) + begin;
  parallel_for(num_threads, args.rows, 1, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      std::memcpy(to + row * kColumnStride, from + row * args.out_features, static_cast<size_t>(end - begin) * 2);
    }
  });
}

void store_sums(const LinearBackwardInputArgs& args, const float* sums, int num_threads) {
  auto* dx = static_cast<bfloat16*>(args.dx);
  parallel_for(num_threads, args.rows, 1, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t i = row_begin * args.in_features; i < row_end * args.in_features; ++i) {
      dx[i] = bfloat16(args.accumulate ? static_cast<float>(dx[i]) + sums[i] : sums[i]);
    }
  });
}

/// dx = dy · w for many output features (an output head): sums in f32 over blocks of them.
void multiply_by_blocks_of_weight(const LinearBackwardInputArgs& args, const Stream& stream) {
  Scratch sums(stream, static_cast<size_t>(args.rows * args.in_features) * sizeof(float));
  Scratch columns(stream, static_cast<size_t>(args.rows * kColumnStride) * sizeof(uint16_t));
  auto* dy = reinterpret_cast<uint16_t*>(columns.data());
  for (int64_t begin = 0; begin < args.out_features; begin += kDepthBlock) {
    int64_t depth = std::min(kDepthBlock, args.out_features - begin);
    copy_columns(args, begin, begin + depth, dy, stream.num_threads);
    Product product = {.x = dy,
                       .x_stride = kColumnStride,
                       .rows = args.rows,
                       .in_features = depth,
                       .y = sums.data(),
                       .out_features = args.in_features,
                       .y_is_f32 = true,
                       .accumulate = begin > 0};
    PanelSource source = {.weight = static_cast<const uint16_t*>(args.weight) + begin * args.in_features,
                          .out_features = args.in_features,
                          .in_features = depth,
                          .stride = args.in_features};
    multiply_unpacked(product, source, pack_transposed_panels, stream);
  }
  store_sums(args, reinterpret_cast<const float*>(sums.data()), stream.num_threads);
}

/// dw += the products of some rows of dy and x. dy is transposed a few output features at a time, so that they are
/// still in the cache when they are multiplied.
void add_weight_products(const LinearBackwardWeightArgs& args, int64_t row, int64_t rows, const Stream& stream) {
  int64_t stride = PackedTaskGrid::round_up(rows, PackedTaskGrid::kRowGranule) + kStridePadding;
  int64_t block = std::min(kTransposedFeatures, args.out_features);
  Scratch scratch(stream, static_cast<size_t>(std::max<int64_t>(1, block * stride)) * sizeof(uint16_t));
  auto* transposed = reinterpret_cast<uint16_t*>(scratch.data());
  const uint16_t* dy = static_cast<const uint16_t*>(args.dy) + row * args.out_features;
  PanelSource source = {.weight = static_cast<const uint16_t*>(args.x) + row * args.in_features,
                        .out_features = args.in_features,
                        .in_features = rows,
                        .stride = args.in_features};
  for_packed_parts(source, pack_transposed_panels, stream, [&](const uint16_t* packed, int64_t begin, int64_t end) {
    for (int64_t feature = 0; feature < args.out_features; feature += block) {
      int64_t features = std::min(block, args.out_features - feature);
      parallel_for(stream.num_threads, features, kTransposeGrain, [&](int64_t from, int64_t to) {
        transpose_bf16({.from = dy + feature + from,
                        .from_stride = args.out_features,
                        .rows = rows,
                        .columns = to - from,
                        .to = transposed + from * stride,
                        .to_stride = stride});
      });
      Product product = {.x = transposed,
                         .x_stride = stride,
                         .rows = features,
                         .in_features = rows,
                         .packed = packed,
                         .packed_begin = begin,
                         .y = static_cast<float*>(args.dw) + feature * args.in_features,
                         .out_features = args.in_features,
                         .panel_begin = begin,
                         .panel_end = end,
                         .y_is_f32 = true,
                         .accumulate = args.accumulate_weight || row > 0};
      run_product(product, stream);
    }
  });
}

}  // namespace

PackedProductFunction<uint16_t> packed_product_of_bf16() {
#if defined(__x86_64__)
  switch (cpu_isa()) {
    case CpuIsa::avx512_bf16:
      return packed_product_avx512_bf16;
    case CpuIsa::avx512:
      return packed_product_avx512;
    case CpuIsa::avx2:
      return packed_product_avx2;
    case CpuIsa::portable:
      break;
  }
#endif
  return packed_product_portable;
}

void linear_bf16_forward(const LinearForwardArgs& args, const Stream& stream) {
  std::vector<Product> packed;
  packed.reserve(args.weights.size());
  for (const LinearWeight& weight : args.weights) {
    Product product = packed_forward(args, weight);
    if (weight.layout == Layout::packed) {
      packed.push_back(product);
      continue;
    }
    PanelSource source = {.weight = product.packed,
                          .out_features = weight.out_features,
                          .in_features = args.in_features,
                          .stride = args.in_features};
    multiply_unpacked(product, source, pack_panels, stream);
  }
  if (packed.empty()) return;
  run_packed_products<uint16_t>(packed, packed_product_of_bf16(), args.activation, stream);
}

void linear_bf16_backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
  if (args.out_features <= kMaxDepth || args.rows <= PackedTaskGrid::kFewRows) return multiply_by_weight(args, stream);
  multiply_by_blocks_of_weight(args, stream);
}

void linear_bf16_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
  int64_t block = args.rows <= kMaxDepth ? args.rows : kDepthBlock;
  int64_t row = 0;
  do {  // once for no rows, which give zeros
    add_weight_products(args, row, std::min(block, args.rows - row), stream);
    row += block;
  } while (row < args.rows);
}

}  // namespace weft
