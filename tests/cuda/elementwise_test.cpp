#include "kernels/elementwise.h"

#include <limits>

#include "cuda/cuda_test.h"

namespace weft {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
constexpr double relative_limit() {
  return std::is_same_v<T, float> ? 3e-6 : 0.0079;
}

struct Place {
  int64_t count, offset;
};
constexpr Place kPlaces[] = {{1, 0}, {7, 0}, {1024, 0}, {3001, 1}, {200003, 0}, {200003, 3}};

template <typename T>
class CudaElementwise : public ::testing::Test {};
TYPED_TEST_SUITE(CudaElementwise, CudaDTypes);

template <typename X, typename Y>
void check_axpby(Place place, double a, double b) {
  SCOPED_TRACE(::testing::Message() << place.count << " elements from " << place.offset << ", a " << a << ", b " << b);
  int64_t count = place.count + place.offset;
  auto x = Twin<X>::random(count, 1);
  auto y_in = Twin<Y>::random(count, 2);
  Twin<Y> y(count);
  AxpbyArgs args{.count = place.count, .a = a, .b = b, .x_dtype = DTypeOf<X>::value, .y_dtype = DTypeOf<Y>::value};
  on_both([&](const Side& side) {
    args.x = x.on(side) + place.offset;
    args.y_in = b == 0 ? nullptr : y_in.on(side) + place.offset;
    args.y = y.on(side) + place.offset;
    side.kernels().elementwise.axpby(args, side.stream);
  });
  // Terms of opposite sign may cancel.
  expect_same(y, relative_limit<Y>(), 1e-6, "y");
  on_both([&](const Side& side) {
    args.x = x.on(side) + place.offset;
    args.y_in = args.y = y_in.on(side) + place.offset;
    side.kernels().elementwise.axpby(args, side.stream);
  });
  expect_same(y_in, relative_limit<Y>(), 1e-6, "y over y_in");
}

TYPED_TEST(CudaElementwise, AxpbyAndItsCasts) {
  WEFT_NEEDS_GPU();
  for (Place place : kPlaces) {
    for (double b : {0.0, 1.0, -0.3}) {
      check_axpby<TypeParam, float>(place, 1, b);
      check_axpby<TypeParam, bfloat16>(place, 1, b);
      check_axpby<float, TypeParam>(place, 0.7, b);
      check_axpby<bfloat16, TypeParam>(place, 0.7, b);
    }
  }
}

TYPED_TEST(CudaElementwise, AxpbyInPlaceAndWithoutReadingY) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  auto x = Twin<T>::random(5000, 1);
  Twin<T> y(5000);  // NaN
  AxpbyArgs args{.count = 5000, .a = 2, .b = 0, .x_dtype = DTypeOf<T>::value, .y_dtype = DTypeOf<T>::value};
  on_both([&](const Side& side) {
    args.x = x.on(side);
    args.y_in = args.y = y.on(side);
    side.kernels().elementwise.axpby(args, side.stream);
  });
  expect_same(y, 0, 0);
  EXPECT_FALSE(std::isnan(as_float(y.device_values()[4999])));
  args.b = 1;
  on_both([&](const Side& side) {
    args.x = args.y_in = args.y = x.on(side);
    side.kernels().elementwise.axpby(args, side.stream);
  });
  expect_same(x, 0, 0);
}

TYPED_TEST(CudaElementwise, SoftCapAndItsBackward) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (Place place : kPlaces) {
    int64_t count = place.count + place.offset;
    auto x = Twin<T>::random(count, 1, 40);
    auto dy = Twin<T>::random(count, 2);
    Twin<T> y(count), dx(count);
    on_both([&](const Side& side) {
      side.kernels().elementwise.soft_cap({.x = x.on(side) + place.offset,
                                           .y = y.on(side) + place.offset,
                                           .count = place.count,
                                           .cap = 30,
                                           .dtype = DTypeOf<T>::value},
                                          side.stream);
    });
    expect_same(y, relative_limit<T>(), 1e-6, "y");
    y.send();
    on_both([&](const Side& side) {
      side.kernels().elementwise.soft_cap_backward({.y = y.on(side) + place.offset,
                                                    .dy = dy.on(side) + place.offset,
                                                    .dx = dx.on(side) + place.offset,
                                                    .count = place.count,
                                                    .cap = 30,
                                                    .dtype = DTypeOf<T>::value},
                                                   side.stream);
    });
    expect_same(dx, relative_limit<T>(), 2e-6, "dx");
  }
}

constexpr int64_t kSoftmaxWidths[] = {1, 3, 31, 32, 33, 1000, 1024, 1025, 5003};

TYPED_TEST(CudaElementwise, Softmax) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (int64_t width : kSoftmaxWidths) {
    for (int64_t rows : {1, 7, 300}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << width);
      auto x = Twin<T>::random(rows * width, 1, 5);
      for (size_t i = 0; i < x.host().size(); i += 11) x.host()[i] = static_cast<T>(-kInfinity);
      for (int64_t i = 0; rows > 2 && i < width; ++i) {
        x.host()[static_cast<size_t>(2 * width + i)] = static_cast<T>(-kInfinity);  // a row of which nothing is left
      }
      x.send();
      Twin<T> y(rows * width);
      SoftmaxArgs args{.rows = rows, .width = width, .dtype = DTypeOf<T>::value};
      on_both([&](const Side& side) {
        args.x = x.on(side);
        args.y = y.on(side);
        side.kernels().elementwise.softmax(args, side.stream);
      });
      expect_same(y, std::is_same_v<T, float> ? 5e-6 : 0.0079, 1e-9, "y");
      on_both([&](const Side& side) {
        args.x = args.y = x.on(side);
        side.kernels().elementwise.softmax(args, side.stream);
      });
      expect_same(x, std::is_same_v<T, float> ? 5e-6 : 0.0079, 1e-9, "y over x");
    }
  }
}

TYPED_TEST(CudaElementwise, SoftmaxBackward) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (int64_t width : kSoftmaxWidths) {
    for (int64_t rows : {1, 7, 300}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << width);
      auto y = Twin<T>::random(rows * width, 1);
      for (T& value : y.host()) value = static_cast<T>(std::abs(as_float(value)) / static_cast<float>(width));
      y.send();
      auto dy = Twin<T>::random(rows * width, 2);
      Twin<T> dx(rows * width);
      on_both([&](const Side& side) {
        side.kernels().elementwise.softmax_backward({.y = y.on(side),
                                                     .dy = dy.on(side),
                                                     .dx = dx.on(side),
                                                     .rows = rows,
                                                     .width = width,
                                                     .dtype = DTypeOf<T>::value},
                                                    side.stream);
      });
      expect_same(dx, relative_limit<T>(), 1e-5 / static_cast<double>(width), "dx");
    }
  }
}

struct DropoutCase {
  int64_t rows, width, global_width, row_begin, column_begin, offset;
  float probability;
};
constexpr DropoutCase kDropoutCases[] = {{3, 1000, 1000, 0, 0, 0, 0.1f},
                                         {3, 1001, 1001, 5, 0, 0, 0.5f},
                                         {3, 1001, 1001, 5, 0, 1, 0.5f},
                                         {40, 512, 2048, 7, 512, 0, 0.1f},
                                         {40, 512, 2049, 7, 511, 0, 0.1f},
                                         {40, 512, 2047, 6, 13, 0, 0.9f},
                                         {40, 511, 2046, 6, 13, 0, 0.1f},
                                         {9, 64, 1 << 20, int64_t{1} << 20, 3, 0, 0.25f},
                                         {300, 1024, 1024, 0, 0, 0, 0.0f},
                                         {1, 1, 1, 0, 0, 0, 0.3f}};

TYPED_TEST(CudaElementwise, DropoutDropsTheSameElements) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (const DropoutCase& part : kDropoutCases) {
    SCOPED_TRACE(::testing::Message() << part.rows << " x " << part.width << " of " << part.global_width << " from "
                                      << part.column_begin);
    int64_t count = part.rows * part.width + part.offset;
    auto x = Twin<T>::random(count, 1);
    Twin<T> y(count);
    on_both([&](const Side& side) {
      side.kernels().elementwise.dropout({.x = x.on(side) + part.offset,
                                          .y = y.on(side) + part.offset,
                                          .rows = part.rows,
                                          .width = part.width,
                                          .global_width = part.global_width,
                                          .row_begin = part.row_begin,
                                          .column_begin = part.column_begin,
                                          .probability = part.probability,
                                          .key = {.seed = 0x123456789abcdef0, .step = 7, .site = 99},
                                          .dtype = DTypeOf<T>::value},
                                         side.stream);
    });
    expect_same(y, 0, 0);
  }
}

TYPED_TEST(CudaElementwise, Transpose) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  struct Size {
    int64_t rows, columns;
  };
  for (Size size : {Size{1, 1}, {1, 100}, {100, 1}, {64, 64}, {63, 65}, {130, 67}, {1000, 777}, {512, 2048}}) {
    SCOPED_TRACE(::testing::Message() << size.rows << " x " << size.columns);
    auto x = Twin<T>::random(size.rows * size.columns, 1);
    Twin<T> y(size.rows * size.columns);
    on_both([&](const Side& side) {
      side.kernels().elementwise.transpose(
          {.x = x.on(side), .y = y.on(side), .rows = size.rows, .columns = size.columns, .dtype = DTypeOf<T>::value},
          side.stream);
    });
    expect_same(y, 0, 0);
  }
}

template <typename T>
void check_column_scale(int64_t rows, int64_t width) {
  SCOPED_TRACE(::testing::Message() << rows << " x " << width);
  auto x = Twin<T>::random(rows * width, 1), dy = Twin<T>::random(rows * width, 2);
  auto factors = Twin<T>::random(width, 3);
  Twin<T> y(rows * width), dx(rows * width);
  on_both([&](const Side& side) {
    side.kernels().elementwise.column_scale({.x = x.on(side),
                                             .factors = factors.on(side),
                                             .y = y.on(side),
                                             .rows = rows,
                                             .width = width,
                                             .dtype = DTypeOf<T>::value},
                                            side.stream);
  });
  expect_same(y, 0, 0, "y");
  auto dfactors = Twin<float>::random(width, 4);
  for (bool wants_dx : {false, true}) {
    for (bool wants_dfactors : {false, true}) {
      on_both([&](const Side& side) {
        side.kernels().elementwise.column_scale_backward({.x = x.on(side),
                                                          .factors = factors.on(side),
                                                          .dy = dy.on(side),
                                                          .dx = wants_dx ? dx.on(side) : nullptr,
                                                          .dfactors = wants_dfactors ? dfactors.on(side) : nullptr,
                                                          .rows = rows,
                                                          .width = width,
                                                          .dtype = DTypeOf<T>::value},
                                                         side.stream);
      });
    }
  }
  expect_same(dx, 0, 0, "dx");
  expect_near_in_norm(dfactors, 2e-5, "dfactors");
}

TYPED_TEST(CudaElementwise, ColumnScaleAndItsBackward) {
  WEFT_NEEDS_GPU();
  for (int64_t width : {1, 8, 33, 256, 1000, 1024, 4099}) {
    for (int64_t rows : {1, 5, 63, 700}) check_column_scale<TypeParam>(rows, width);
  }
}

TEST(CudaElementwiseEdges, NothingIsDoneToNoElements) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    const ElementwiseKernels& kernels = side.kernels().elementwise;
    kernels.axpby({}, side.stream);
    kernels.soft_cap({}, side.stream);
    kernels.soft_cap_backward({}, side.stream);
    kernels.softmax({.width = 5}, side.stream);
    kernels.softmax_backward({.width = 5}, side.stream);
    kernels.dropout({.width = 5, .global_width = 5, .key = {}}, side.stream);
    kernels.transpose({.columns = 5}, side.stream);
    kernels.column_scale({.width = 5}, side.stream);
    kernels.column_scale_backward({.width = 5}, side.stream);
  });
}

}  // namespace
}  // namespace weft
