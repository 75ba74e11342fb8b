#include "kernels/cpu/linear_bf16.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/parallel_tasks.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

/// What of x a core keeps in its second-level cache beside the panels that stream past.
constexpr int64_t kRowBlockBytes = 512 << 10;
/// Weights of one task: long enough to stream, short enough to share out evenly.
constexpr int64_t kTaskBytes = 32 << 10;
/// Flops of one task when there are many rows: some 50 µs.
constexpr int64_t kTaskFlops = 16 << 20;
/// Scratch for a row-major weight that is packed on the fly.
constexpr int64_t kPackBytes = 4 << 20;
constexpr int64_t kRowGranule = 8;
/// Up to here memory is the bound.
constexpr int64_t kFewRows = 16;

PackedProductFunction product_function() {
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

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// How the products of one x with several weights are cut into tasks: blocks of rows, then chunks of panels.
class TaskGrid {
 public:
  TaskGrid(int64_t rows, int64_t in_features) : rows_(rows) {
    int64_t row_bytes = std::max<int64_t>(1, in_features * 2);
    int64_t block = std::max(kRowGranule, kRowBlockBytes / row_bytes / kRowGranule * kRowGranule);
    num_row_blocks_ = (rows + block - 1) / block;
    row_block_ = round_up((rows + num_row_blocks_ - 1) / num_row_blocks_, kRowGranule);
    num_row_blocks_ = (rows + row_block_ - 1) / row_block_;
    int64_t panel_bytes = std::max<int64_t>(1, panel_elements(in_features) * 2);
    int64_t panel_flops = std::min(row_block_, rows) * panel_bytes;
    panel_chunk_ = std::max<int64_t>(1, kTaskBytes / panel_bytes);
    // A tile of many rows spans two panels.
    if (rows > kFewRows) panel_chunk_ = round_up(std::max(panel_chunk_, kTaskFlops / panel_flops), 2);
  }

  int64_t chunks(int64_t panels) const { return (panels + panel_chunk_ - 1) / panel_chunk_; }
  int64_t num_row_blocks() const { return num_row_blocks_; }

  /// Narrows `product`, the whole product with one weight, to a block of rows and a chunk of its panels.
  PackedProduct part(PackedProduct product, int64_t row_block, int64_t chunk) const {
    int64_t row = row_block * row_block_;
    product.x += row * product.x_stride;
    product.y = static_cast<std::byte*>(product.y) + row * product.out_features * (product.y_is_f32 ? 4 : 2);
    product.rows = std::min(row_block_, rows_ - row);
    product.panel_end = std::min(product.panel_end, product.panel_begin + (chunk + 1) * panel_chunk_);
    product.panel_begin += chunk * panel_chunk_;
    return product;
  }

 private:
  int64_t rows_;
  int64_t row_block_ = 0;
  int64_t num_row_blocks_ = 0;
  int64_t panel_chunk_ = 0;
};

/// All products, which share x, in one parallel region.
void run_products(std::span<const PackedProduct> products, int num_threads) {
  const PackedProduct& first = products.front();
  if (first.rows == 0) return;
  TaskGrid grid(first.rows, first.in_features);
  int64_t chunks = 0;
  for (const PackedProduct& product : products) chunks += grid.chunks(product.panel_end - product.panel_begin);
  PackedProductFunction multiply = product_function();
  parallel_tasks(num_threads, chunks * grid.num_row_blocks(), [&](int64_t task) {
    int64_t chunk = task % chunks;
    const PackedProduct* product = products.data();
    for (int64_t count; chunk >= (count = grid.chunks(product->panel_end - product->panel_begin)); ++product)
      chunk -= count;
    multiply(grid.part(*product, task / chunks, chunk));
  });
}

PackedProduct packed_forward(const LinearForwardArgs& args, const LinearWeight& weight) {
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

/// `product` with a weight that is not packed yet: packs a few panels, multiplies, goes on.
void multiply_unpacked(PackedProduct product, const PanelSource& source, PackFunction pack, const Stream& stream) {
  int64_t elements = panel_elements(source.in_features);
  int64_t panels = num_panels(source.out_features);
  int64_t block = std::clamp<int64_t>(kPackBytes / std::max<int64_t>(1, elements * 2), 1, std::max<int64_t>(1, panels));
  Scratch scratch(stream, static_cast<size_t>(std::max<int64_t>(1, block * elements)) * sizeof(uint16_t));
  auto* packed = reinterpret_cast<uint16_t*>(scratch.data());
  for (int64_t begin = 0; begin < panels; begin += block) {
    int64_t end = std::min(panels, begin + block);
    parallel_for(stream.num_threads, end - begin, 1, [&](int64_t from, int64_t to) {
      pack(source, begin + from, begin + to, packed + from * elements);
    });
    product.packed = packed;
    product.packed_begin = begin;
    product.panel_begin = begin;
    product.panel_end = end;
    run_products({&product, 1}, stream.num_threads);
  }
}

/// to[j, i] = from[i, j], in blocks that stay in the first-level cache.
void transpose(const uint16_t* from, int64_t rows, int64_t columns, uint16_t* to, int num_threads) {
  constexpr int64_t kBlock = 32;
  parallel_for(num_threads, columns, kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; row += kBlock) {
      int64_t row_end = std::min(rows, row + kBlock);
      for (int64_t column = begin; column < end; ++column) {
        for (int64_t r = row; r < row_end; ++r) to[column * rows + r] = from[r * columns + column];
      }
    }
  });
}

}  // namespace

void linear_bf16_forward(const LinearForwardArgs& args, const Stream& stream) {
  std::vector<PackedProduct> packed;
  packed.reserve(args.weights.size());
  for (const LinearWeight& weight : args.weights) {
    PackedProduct product = packed_forward(args, weight);
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
  if (!packed.empty()) run_products(packed, stream.num_threads);
}

void linear_bf16_backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
  PackedProduct product = {.x = static_cast<const uint16_t*>(args.dy),
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

void linear_bf16_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
  Scratch scratch(stream, static_cast<size_t>(std::max<int64_t>(1, args.rows * args.out_features)) * sizeof(uint16_t));
  auto* dy_transposed = reinterpret_cast<uint16_t*>(scratch.data());
  transpose(static_cast<const uint16_t*>(args.dy), args.rows, args.out_features, dy_transposed, stream.num_threads);
  PackedProduct product = {.x = dy_transposed,
                           .x_stride = args.rows,
                           .rows = args.out_features,
                           .in_features = args.rows,
                           .y = args.dw,
                           .out_features = args.in_features,
                           .y_is_f32 = true,
                           .accumulate = args.accumulate_weight};
  PanelSource source = {.weight = static_cast<const uint16_t*>(args.x),
                        .out_features = args.in_features,
                        .in_features = args.rows,
                        .stride = args.in_features};
  multiply_unpacked(product, source, pack_transposed_panels, stream);
}

}  // namespace weft
