#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_generic.inl"

constexpr int kStreamedRows = 4;
constexpr int kTileRows = 8;
constexpr int kTilePanels = 2;

#include "kernels/cpu/packed_product.inl"

}  // namespace

void packed_product_avx512(const PackedProduct& product) {
  packed_product(product);
}

}  // namespace weft
