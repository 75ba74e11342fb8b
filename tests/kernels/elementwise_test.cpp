#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class ElementwiseOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(ElementwiseOfDType, KernelDTypes);

template <typename X, typename Y>
void expect_axpby_equals_reference(int64_t count, double a, double b, const Stream& stream) {
  Guarded<X> x(count, 1);
  Guarded<Y> y_in(count, 2), y(count, 3);
  fill_random(x, 1);
  fill_random(y_in, 2);
  if (b == 0) y_in[0] = from_double<Y>(std::nan(""));
  std::vector<double> expected(count);
  for (int64_t i = 0; i < count; ++i) expected[i] = a * to_double(x[i]) + (b == 0 ? 0 : b * to_double(y_in[i]));
  AxpbyArgs args{.x = x.data(),
                 .y_in = y_in.data(),
                 .y = y.data(),
                 .count = count,
                 .a = a,
                 .b = b,
                 .x_dtype = DTypeOf<X>::value,
                 .y_dtype = DTypeOf<Y>::value};
  cpu().elementwise.axpby(args, stream);
  expect_close(y, expected, tolerance<Y>());
  args.y = y_in.data();
  cpu().elementwise.axpby(args, stream);
  expect_close(y_in, expected, tolerance<Y>());
}

TYPED_TEST(ElementwiseOfDType, AxpbyMixesDTypes) {
  using T = TypeParam;
  for_each_isa([&](const Stream& stream) {
    for (int64_t count : odd_widths()) {
      for (auto [a, b] : {std::pair{1.0, 1.0}, {1.0, 0.0}, {-0.3, 2.5}}) {
        expect_axpby_equals_reference<T, float>(count, a, b, stream);
        expect_axpby_equals_reference<T, bfloat16>(count, a, b, stream);
        expect_axpby_equals_reference<T, double>(count, a, b, stream);
      }
    }
  });
}

TEST(Elementwise, CastToBf16RoundsLikeTheType) {
  constexpr int64_t kCount = 1 << 16;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> x(kCount);
    Guarded<bfloat16> y(kCount);
    std::mt19937 generator(1);
    for (int64_t i = 0; i < kCount; ++i) x[i] = std::bit_cast<float>(static_cast<uint32_t>(generator()));
    cpu().elementwise.axpby(
        {.x = x.data(), .y = y.data(), .count = kCount, .x_dtype = DType::f32, .y_dtype = DType::bf16}, stream);
    for (int64_t i = 0; i < kCount; ++i) {
      ASSERT_TRUE(y[i].bits == bfloat16(x[i]).bits || (std::isnan(x[i]) && std::isnan(to_double(y[i])))) << x[i];
    }
  });
}

TYPED_TEST(ElementwiseOfDType, SoftCapEqualsReference) {
  using T = TypeParam;
  for (int64_t count : odd_widths()) {
    for_each_isa([&](const Stream& stream) {
      Guarded<T> x(count, 1), y(count, 1);
      fill_random(x, 1, 40);
      std::vector<double> expected(count);
      for (int64_t i = 0; i < count; ++i) expected[i] = 30 * std::tanh(to_double(x[i]) / 30);
      cpu().elementwise.soft_cap({.x = x.data(), .y = y.data(), .count = count, .cap = 30, .dtype = DTypeOf<T>::value},
                                 stream);
      expect_close(y, expected, tolerance<T>());
    });
  }
}

TEST(Elementwise, SoftCapIsAccurateFromTinyToHuge) {
  constexpr int64_t kCount = 4096;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> x(kCount), y(kCount);
    std::vector<double> expected(kCount);
    for (int64_t i = 0; i < kCount; ++i) {
      x[i] = static_cast<float>((i % 2 == 0 ? 1 : -1) * std::pow(10.0, -6 + 9.0 * static_cast<double>(i) / kCount));
      expected[i] = std::tanh(static_cast<double>(x[i]));
    }
    cpu().elementwise.soft_cap({.x = x.data(), .y = y.data(), .count = kCount, .cap = 1}, stream);
    expect_close(y, expected, {.relative = 4e-7, .absolute = 0});
  });
}

TEST(Elementwise, SoftCapBackwardEqualsCentredDifferences) {
  constexpr int64_t kCount = 21;
  for_each_isa([&](const Stream& stream) {
    Guarded<double> x(kCount), y(kCount), dy(kCount), dx(kCount);
    fill_random(x, 1, 2);
    fill_random(dy, 2);
    auto loss = [&] {
      cpu().elementwise.soft_cap({.x = x.data(), .y = y.data(), .count = kCount, .cap = 2, .dtype = DType::f64},
                                 stream);
      return weighted_sum(dy, y);
    };
    loss();
    cpu().elementwise.soft_cap_backward(
        {.y = y.data(), .dy = dy.data(), .dx = dx.data(), .count = kCount, .cap = 2, .dtype = DType::f64}, stream);
    expect_gradient(x, dx, loss);
  });
}

std::vector<double> reference_softmax(const std::vector<double>& x, int64_t width) {
  std::vector<double> y(x.size());
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(width)) {
    double maximum = *std::max_element(x.begin() + row, x.begin() + row + width);
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += std::exp(x[row + i] - maximum);
    for (int64_t i = 0; i < width; ++i) y[row + i] = std::exp(x[row + i] - maximum) / sum;
  }
  return y;
}

TYPED_TEST(ElementwiseOfDType, SoftmaxEqualsReferenceAtEveryWidth) {
  using T = TypeParam;
  constexpr int64_t kRows = 3;
  for (int64_t width : odd_widths()) {
    for_each_isa([&](const Stream& stream) {
      Guarded<T> x(kRows * width, 1), y(kRows * width, 1);
      fill_random(x, 1, 5);
      if (width > 2) x[1] = from_double<T>(-INFINITY);
      x[width] = from_double<T>(-3e38);
      x[width * 2 - 1] = from_double<T>(3e38);
      cpu().elementwise.softmax(
          {.x = x.data(), .y = y.data(), .rows = kRows, .width = width, .dtype = DTypeOf<T>::value}, stream);
      expect_close(y, reference_softmax(x.values(), width), tolerance<T>());
      for (int64_t i = 0; width == 1 && i < kRows; ++i) EXPECT_EQ(to_double(y[i]), 1);
    });
  }
}

TEST(Elementwise, SoftmaxPassesNanOn) {
  for_each_isa([&](const Stream& stream) {
    Guarded<float> x(2 * 37, 0, 1.0f), y(2 * 37);
    x[36] = std::nanf("");
    cpu().elementwise.softmax({.x = x.data(), .y = y.data(), .rows = 2, .width = 37}, stream);
    for (int64_t i = 0; i < 2 * 37; ++i) EXPECT_EQ(std::isnan(y[i]), i < 37);
  });
}

TEST(Elementwise, SoftmaxBackwardEqualsCentredDifferences) {
  constexpr int64_t kRows = 2, kWidth = 11;
  for_each_isa([&](const Stream& stream) {
    Guarded<double> x(kRows * kWidth), y(kRows * kWidth), dy(kRows * kWidth), dx(kRows * kWidth);
    fill_random(x, 1);
    fill_random(dy, 2);
    auto loss = [&] {
      cpu().elementwise.softmax({.x = x.data(), .y = y.data(), .rows = kRows, .width = kWidth, .dtype = DType::f64},
                                stream);
      return weighted_sum(dy, y);
    };
    loss();
    cpu().elementwise.softmax_backward(
        {.y = y.data(), .dy = dy.data(), .dx = dx.data(), .rows = kRows, .width = kWidth, .dtype = DType::f64}, stream);
    expect_gradient(x, dx, loss);
  });
}

TYPED_TEST(ElementwiseOfDType, DropoutKeepsTheSameElementsAsTheRandomKey) {
  using T = TypeParam;
  constexpr int64_t kRows = 5, kWidth = 131;
  RandomKey key{.seed = 0x123456789abcull, .step = 7, .site = 3};
  for_each_isa([&](const Stream& stream) {
    Guarded<T> x(kRows * kWidth, 1), y(kRows * kWidth, 1);
    fill_random(x, 1);
    cpu().elementwise.dropout({.x = x.data(),
                               .y = y.data(),
                               .rows = kRows,
                               .width = kWidth,
                               .global_width = 1000,
                               .column_begin = 77,
                               .probability = 0.25f,
                               .key = key,
                               .dtype = DTypeOf<T>::value},
                              stream);
    std::vector<double> expected(kRows * kWidth);
    for (int64_t i = 0; i < kRows * kWidth; ++i) {
      bool is_kept = key.uniform(static_cast<uint64_t>(i / kWidth * 1000 + 77 + i % kWidth)) >= 0.25f;
      expected[i] = is_kept ? to_double(x[i]) / 0.75 : 0;
    }
    expect_close(y, expected, {tolerance<T>().relative, 0});
  });
}

TEST(Elementwise, DropoutOfRowsEqualsTheWhole) {
  constexpr int64_t kRows = 7, kWidth = 33, kSkipped = 3;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> x(kRows * kWidth, 0, 1.0f), whole(kRows * kWidth), part((kRows - kSkipped) * kWidth);
    DropoutArgs args{.x = x.data(),
                     .y = whole.data(),
                     .rows = kRows,
                     .width = kWidth,
                     .global_width = kWidth,
                     .probability = 0.5f,
                     .key = {.seed = 8}};
    cpu().elementwise.dropout(args, stream);
    args.y = part.data();
    args.rows = kRows - kSkipped;
    args.row_begin = kSkipped;
    cpu().elementwise.dropout(args, stream);
    for (int64_t i = 0; i < part.size(); ++i) EXPECT_EQ(part[i], whole[kSkipped * kWidth + i]);
  });
}

TYPED_TEST(ElementwiseOfDType, TransposeSwapsIndices) {
  using T = TypeParam;
  for (const auto& shape : {std::pair<int64_t, int64_t>{1, 1}, {3, 70}, {70, 3}, {300, 257}, {0, 5}}) {
    const int64_t rows = shape.first, columns = shape.second;
    Guarded<T> x(rows * columns), y(rows * columns);
    fill_random(x, 1);
    for_each_isa([&](const Stream& stream) {
      cpu().elementwise.transpose(
          {.x = x.data(), .y = y.data(), .rows = rows, .columns = columns, .dtype = DTypeOf<T>::value}, stream);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) ASSERT_EQ(to_double(y[j * rows + i]), to_double(x[i * columns + j]));
      }
    });
  }
}

TEST(Elementwise, DropoutOfHalvesEqualsTheWholeAndKeepsTheFraction) {
  constexpr int64_t kRows = 100, kWidth = 1000, kLeft = 413;
  RandomKey key{.seed = 5, .step = 1, .site = 2};
  for_each_isa([&](const Stream& stream) {
    Guarded<float> whole_x(kRows * kWidth, 0, 1.0f), whole(kRows * kWidth);
    DropoutArgs args{.x = whole_x.data(),
                     .y = whole.data(),
                     .rows = kRows,
                     .width = kWidth,
                     .global_width = kWidth,
                     .probability = 0.1f,
                     .key = key};
    cpu().elementwise.dropout(args, stream);
    int64_t kept = 0;
    for (int64_t i = 0; i < whole.size(); ++i) kept += whole[i] != 0;
    EXPECT_NEAR(static_cast<double>(kept) / (kRows * kWidth), 0.9, 0.005);
    for (auto [begin, width] : {std::pair{int64_t{0}, kLeft}, {kLeft, kWidth - kLeft}}) {
      Guarded<float> part(kRows * width);
      args.y = part.data();
      args.width = width;
      args.column_begin = begin;
      cpu().elementwise.dropout(args, stream);
      for (int64_t i = 0; i < part.size(); ++i) ASSERT_EQ(part[i], whole[i / width * kWidth + begin + i % width]);
    }
  });
}

}  // namespace
}  // namespace weft
