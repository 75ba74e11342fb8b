#include "kernels/cpu/dot_product.h"

namespace weft {
namespace {

constexpr int kVectorBytes = 16;
constexpr int kMaxDotRows = 2;

#include "kernels/cpu/dot_product.inl"

}  // namespace

void dot_product_portable(const DotProduct& product) {
  dot_product(product);
}

}  // namespace weft
