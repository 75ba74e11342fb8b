#include "kernels/cpu/packed_product.h"

namespace weft {
namespace {

#include "kernels/cpu/lanes_generic.inl"

template <typename Element>
constexpr int kStreamedRows = 2;
template <typename Element>
constexpr int kTileRows = 2;
template <typename Element>
constexpr int kTilePanels = 1;

#include "kernels/cpu/packed_product.inl"

}  // namespace

void packed_product_portable(const PackedProduct<uint16_t>& product) {
  packed_product(product);
}

void packed_product_portable(const PackedProduct<float>& product) {
  packed_product(product);
}

}  // namespace weft
