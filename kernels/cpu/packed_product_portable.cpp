#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_generic.inl"

constexpr int kStreamedRows = 2;
constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;

#include "kernels/cpu/packed_product.inl"

}  // namespace

void packed_product_portable(const PackedProduct& product) {
  packed_product(product);
}

}  // namespace weft
