#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/simd.h"

namespace weft::WEFT_ISA {
namespace {

template <typename R>
void multiply(const SmallProductArgs& args) {
  ProductArgs<FmaProduct<R>> product{.a = static_cast<const R*>(args.a),
                                     .a_row = args.a_row,
                                     .a_step = args.a_step,
                                     .b = static_cast<const R*>(args.b),
                                     .b_step = args.b_stride,
                                     .steps = args.steps,
                                     .c = static_cast<R*>(args.c),
                                     .c_row = args.c_stride,
                                     .accumulate = true};
  multiply_any_rows(product, args.rows, args.width);
}

}  // namespace

void small_product(const SmallProductArgs& args) {
  if (args.dtype == DType::f64) return multiply<double>(args);
  multiply<float>(args);
}

}  // namespace weft::WEFT_ISA
