#include "kernels/cpu/dot_product.h"

namespace weft {
namespace {

constexpr int kVectorBytes = 64;
constexpr int kMaxDotRows = 4;

#include "kernels/cpu/dot_product.inl"

}  // namespace

void dot_product_avx512(const DotProduct& product) {
  dot_product(product);
}

}  // namespace weft
