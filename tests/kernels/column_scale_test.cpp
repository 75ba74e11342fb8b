#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class ColumnScaleOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(ColumnScaleOfDType, KernelDTypes);

TYPED_TEST(ColumnScaleOfDType, EqualsLoopsInDouble) {
  using T = TypeParam;
  for (int64_t width : odd_widths()) {
    SCOPED_TRACE(width);
    constexpr int64_t kRows = 35;
    Guarded<T> x(kRows * width, 1), factors(width, 2), dy(kRows * width, 3), y(kRows * width, 1), dx(kRows * width, 2);
    fill_random(x, 1);
    fill_random(factors, 2);
    fill_random(dy, 3);
    std::vector<double> product, input_gradient, factor_gradient(static_cast<size_t>(width), 0.5);
    for (int64_t i = 0; i < kRows * width; ++i) {
      product.push_back(to_double(x[i]) * to_double(factors[i % width]));
      input_gradient.push_back(to_double(dy[i]) * to_double(factors[i % width]));
      factor_gradient[static_cast<size_t>(i % width)] += to_double(dy[i]) * to_double(x[i]);
    }
    for_each_isa([&](const Stream& stream) {
      // Added to what is there.
      Guarded<SumOf<T>> dfactors(width, 1, 0.5);
      ColumnScaleArgs forward{.x = x.data(),
                              .factors = factors.data(),
                              .y = y.data(),
                              .rows = kRows,
                              .width = width,
                              .dtype = DTypeOf<T>::value};
      ColumnScaleBackwardArgs backward{.x = x.data(),
                                       .factors = factors.data(),
                                       .dy = dy.data(),
                                       .dx = dx.data(),
                                       .dfactors = dfactors.data(),
                                       .rows = kRows,
                                       .width = width,
                                       .dtype = DTypeOf<T>::value};
      cpu().elementwise.column_scale(forward, stream);
      cpu().elementwise.column_scale_backward(backward, stream);
      expect_close(y, product, tolerance<T>());
      expect_close(dx, input_gradient, tolerance<T>());
      expect_close(dfactors, factor_gradient, tolerance<SumOf<T>>(), 10);
    });
  }
}

}  // namespace
}  // namespace weft
