// Products with packed weights on several threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/activation.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/packed_product.h"
#include "kernels/cpu/packed_weights.h"
#include "kernels/cpu/parallel_tasks.h"
#include "kernels/cpu/scratch.h"

namespace weft {

/// How the products of one x with several weights are cut into tasks: blocks of rows, then chunks of panels.
class PackedTaskGrid {
 public:
  /// Up to here memory is the bound.
  static constexpr int64_t kFewRows = 16;
  static constexpr int64_t kRowGranule = 8;

  /// Of panels of so many bytes.
  PackedTaskGrid(int64_t rows, int64_t row_bytes, int64_t panel_bytes) : rows_(rows) {
    int64_t block = std::max(kRowGranule, kRowBlockBytes / std::max<int64_t>(1, row_bytes) / kRowGranule * kRowGranule);
    num_row_blocks_ = (rows + block - 1) / block;
    row_block_ = round_up((rows + num_row_blocks_ - 1) / num_row_blocks_, kRowGranule);
    num_row_blocks_ = (rows + row_block_ - 1) / row_block_;
    int64_t bytes = std::max<int64_t>(1, panel_bytes);
    panel_chunk_ = std::max<int64_t>(1, kTaskBytes / bytes);
    // A tile of many rows spans two panels.
    if (rows > kFewRows) {
      int64_t least = kTaskProducts / (std::min(row_block_, rows) * bytes);
      panel_chunk_ = round_up(std::max(panel_chunk_, least), 2);
    }
  }

  int64_t chunks(int64_t panels) const { return (panels + panel_chunk_ - 1) / panel_chunk_; }
  int64_t num_row_blocks() const { return num_row_blocks_; }
  int64_t row_block() const { return std::min(row_block_, rows_); }

  /// Narrows `product`, the whole product with one weight, to a block of rows and a chunk of its panels.
  template <typename Element>
  PackedProduct<Element> part(PackedProduct<Element> product, int64_t row_block, int64_t chunk) const {
    int64_t row = row_block * row_block_;
    product.x += row * product.x_stride;
    product.y = static_cast<std::byte*>(product.y) + row * product.out_features * (product.y_is_f32 ? 4 : 2);
    product.rows = std::min(row_block_, rows_ - row);
    product.panel_end = std::min(product.panel_end, product.panel_begin + (chunk + 1) * panel_chunk_);
    product.panel_begin += chunk * panel_chunk_;
    return product;
  }

  static int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

 private:
  /// What of x a core keeps in its second-level cache beside the panels that stream past.
  static constexpr int64_t kRowBlockBytes = 512 << 10;
  /// Weights of one task: long enough to stream, short enough to share out evenly.
  static constexpr int64_t kTaskBytes = 32 << 10;
  /// Rows times bytes of weights of one task when there are many rows: some 50 µs.
  static constexpr int64_t kTaskProducts = 16 << 20;

  int64_t rows_;
  int64_t row_block_ = 0;
  int64_t num_row_blocks_ = 0;
  int64_t panel_chunk_ = 0;
};

/// What rows that would share sets of the first-level cache are moved apart by.
inline constexpr int64_t kSpreadBytes = 64;

/// Rows of x that lie a multiple of 4 KB apart would share one set of the first-level cache, and those of a tile
/// displace each other: each thread then works on a copy of its block of rows, which lie a little further apart.
template <typename Element>
class SpreadRows {
 public:
  SpreadRows(const PackedTaskGrid& grid, const PackedProduct<Element>& product, const Stream& stream)
      : stride_(product.in_features + kSpreadBytes / kElementBytes),
        elements_(grid.row_block() * stride_),
        blocks_(is_needed(product) ? static_cast<size_t>(std::max(1, stream.num_threads)) : 0, int64_t{-1}),
        copies_(stream, blocks_.size() * static_cast<size_t>(elements_ * kElementBytes)) {}

  /// Points a part of that product at the thread's copy of its rows.
  void redirect(PackedProduct<Element>& part, int64_t row_block, int thread) {
    if (blocks_.empty()) return;
    Element* copy = reinterpret_cast<Element*>(copies_.data()) + thread * elements_;
    if (blocks_[static_cast<size_t>(thread)] != row_block) {
      for (int64_t row = 0; row < part.rows; ++row) {
        const Element* from = part.x + row * part.x_stride;
        std::memcpy(copy + row * stride_, from, static_cast<size_t>(part.in_features * kElementBytes));
      }
      blocks_[static_cast<size_t>(thread)] = row_block;
    }
    part.x = copy;
    part.x_stride = stride_;
  }

 private:
  static constexpr auto kElementBytes = static_cast<int64_t>(sizeof(Element));

  static bool is_needed(const PackedProduct<Element>& product) {
    constexpr int64_t kCollidingBytes = 4096;
    return product.rows > PackedTaskGrid::kFewRows && product.x_stride * kElementBytes % kCollidingBytes == 0;
  }

  int64_t stride_;               // of the copies
  int64_t elements_;             // of a thread's copy
  std::vector<int64_t> blocks_;  // that each thread holds; empty: rows stay where they are
  Scratch copies_;
};

/// Applies an activation to the part of y that a product has just written.
template <typename Product>
void activate(const Product& product, Activation activation) {
  ActivationForwardArgs args{
      .x = product.y, .y = product.y, .activation = activation, .dtype = product.y_is_f32 ? DType::f32 : DType::bf16};
  int64_t begin = product.panel_begin * kPanelWidth;
  int64_t end = std::min(product.out_features, product.panel_end * kPanelWidth);
  auto forward = cpu_loops().activation_forward;
  for (int64_t row = 0; row < product.rows; ++row) {
    forward(args, row * product.out_features + begin, row * product.out_features + end);
  }
}

/// All products, which share x, in one parallel region, by multiply(part, index of the product, thread); of each part's
/// sums the activation, while a cache holds them.
template <typename Element, typename Multiply>
void run_packed_parts(std::span<const PackedProduct<Element>> products,
                      Activation activation,
                      const Stream& stream,
                      const Multiply& multiply) {
  const PackedProduct<Element>& first = products.front();
  if (first.rows == 0) return;
  auto element_bytes = static_cast<int64_t>(sizeof(Element));
  PackedTaskGrid grid(first.rows, first.in_features * element_bytes, panel_bytes<Element>(first.in_features));
  auto chunks_of = [&](const auto& product) { return grid.chunks(product.panel_end - product.panel_begin); };
  int64_t chunks = 0;
  for (const auto& product : products) chunks += chunks_of(product);
  SpreadRows<Element> spread(grid, first, stream);
  parallel_tasks(stream.num_threads, chunks * grid.num_row_blocks(), [&](int64_t task, int thread) {
    int64_t row_block = task / chunks, chunk = task % chunks;
    size_t index = 0;
    for (int64_t count; chunk >= (count = chunks_of(products[index])); ++index) chunk -= count;
    PackedProduct<Element> part = grid.part(products[index], row_block, chunk);
    spread.redirect(part, row_block, thread);
    multiply(part, index, thread);
    if (activation != Activation::identity) activate(part, activation);
  });
}

template <typename Element>
void run_packed_products(std::span<const PackedProduct<Element>> products,
                         PackedProductFunction<Element> multiply,
                         Activation activation,
                         const Stream& stream) {
  run_packed_parts(
      products, activation, stream, [&](const PackedProduct<Element>& part, size_t, int) { multiply(part); });
}

}  // namespace weft
