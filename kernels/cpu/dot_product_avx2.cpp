#include "kernels/cpu/dot_product.h"

namespace weft {
namespace {

constexpr int kVectorBytes = 32;
constexpr int kMaxDotRows = 2;

#include "kernels/cpu/dot_product.inl"

}  // namespace

void dot_product_avx2(const DotProduct& product) {
  dot_product(product);
}

}  // namespace weft
