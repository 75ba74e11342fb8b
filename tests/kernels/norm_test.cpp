#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class RmsNormOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(RmsNormOfDType, KernelDTypes);

template <typename T>
std::vector<double> reference_norm(const std::vector<double>& x,
                                   const std::vector<double>& weight,
                                   int64_t rows,
                                   double eps,
                                   double offset,
                                   bool round_first) {
  auto width = static_cast<int64_t>(weight.size());
  std::vector<double> y(x.size());
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += x[row * width + i] * x[row * width + i];
    double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (int64_t i = 0; i < width; ++i) {
      double normed = x[row * width + i] * inverse;
      if (round_first) normed = to_double(from_double<T>(normed));
      y[row * width + i] = normed * (offset + weight[i]);
    }
  }
  return y;
}

TYPED_TEST(RmsNormOfDType, OfSumEqualsReferenceAtEveryWidth) {
  using T = TypeParam;
  constexpr int64_t kRows = 3;
  for (int64_t width : odd_widths()) {
    SCOPED_TRACE(width);
    for_each_isa([&](const Stream& stream) {
      Guarded<T> x(kRows * width, 1), residual(kRows * width, 3), weight(width, 2), sum(kRows * width, 1),
          y(kRows * width, 1);
      Guarded<float> inv_rms(kRows);
      fill_random(x, 1);
      fill_random(residual, 2);
      fill_random(weight, 3);
      cpu().rms_norm.forward({.x = x.data(),
                              .residual = residual.data(),
                              .weight = weight.data(),
                              .sum = sum.data(),
                              .y = y.data(),
                              .inv_rms = inv_rms.data(),
                              .rows = kRows,
                              .width = width,
                              .eps = 1e-5,
                              .weight_offset = 1,
                              .dtype = DTypeOf<T>::value},
                             stream);
      for (int64_t i = 0; i < kRows * width; ++i) {
        ASSERT_EQ(to_double(sum[i]), to_double(from_double<T>(to_double(x[i]) + to_double(residual[i]))));
      }
      expect_close(y, reference_norm<T>(sum.values(), weight.values(), kRows, 1e-5, 1, false), tolerance<T>());
    });
  }
}

TYPED_TEST(RmsNormOfDType, RoundsBeforeTheWeightWhenAsked) {
  using T = TypeParam;
  constexpr int64_t kRows = 2, kWidth = 67;
  for_each_isa([&](const Stream& stream) {
    Guarded<T> x(kRows * kWidth), weight(kWidth), y(kRows * kWidth);
    fill_random(x, 1);
    fill_random(weight, 2);
    cpu().rms_norm.forward({.x = x.data(),
                            .weight = weight.data(),
                            .y = y.data(),
                            .rows = kRows,
                            .width = kWidth,
                            .round_before_weight = true,
                            .dtype = DTypeOf<T>::value},
                           stream);
    Tolerance allowed = tolerance<T>();
    allowed.relative *= 2;  // rounded twice
    expect_close(y, reference_norm<T>(x.values(), weight.values(), kRows, 1e-6, 0, true), allowed);
  });
}

TYPED_TEST(RmsNormOfDType, MayWriteTheSumOverTheResidual) {
  using T = TypeParam;
  constexpr int64_t kRows = 40, kWidth = 576;
  for_each_isa([&](const Stream& stream) {
    Guarded<T> x(kRows * kWidth), residual(kRows * kWidth), weight(kWidth), y(kRows * kWidth);
    fill_random(x, 1);
    fill_random(residual, 2);
    fill_random(weight, 3);
    std::vector<double> expected_sum = residual.values();
    for (int64_t i = 0; i < x.size(); ++i)
      expected_sum[i] = to_double(from_double<T>(expected_sum[i] + to_double(x[i])));
    cpu().rms_norm.forward({.x = x.data(),
                            .residual = residual.data(),
                            .weight = weight.data(),
                            .sum = residual.data(),
                            .y = y.data(),
                            .rows = kRows,
                            .width = kWidth,
                            .dtype = DTypeOf<T>::value},
                           stream);
    EXPECT_EQ(residual.values(), expected_sum);
    expect_close(y, reference_norm<T>(expected_sum, weight.values(), kRows, 1e-6, 0, false), tolerance<T>());
  });
}

TEST(RmsNorm, NanReachesItsRowOnly) {
  constexpr int64_t kWidth = 40;
  for_each_isa([&](const Stream& stream) {
    Guarded<float> x(2 * kWidth, 0, 1.0f), weight(kWidth, 0, 1.0f), y(2 * kWidth);
    x[5] = std::nanf("");
    cpu().rms_norm.forward({.x = x.data(), .weight = weight.data(), .y = y.data(), .rows = 2, .width = kWidth}, stream);
    for (int64_t i = 0; i < kWidth; ++i) {
      EXPECT_TRUE(std::isnan(y[i]));
      EXPECT_NEAR(y[kWidth + i], 1, 1e-5);
    }
  });
}

TEST(RmsNorm, BackwardEqualsCentredDifferences) {
  constexpr int64_t kRows = 3, kWidth = 19;
  for_each_isa([&](const Stream& stream) {
    Guarded<double> x(kRows * kWidth), residual(kRows * kWidth), weight(kWidth), sum(kRows * kWidth), y(kRows * kWidth);
    Guarded<double> dy(kRows * kWidth), dsum(kRows * kWidth), dinput(kRows * kWidth), dweight(kWidth);
    uint32_t seed = 0;
    for (Guarded<double>* buffer : {&x, &residual, &weight, &dy, &dsum}) fill_random(*buffer, ++seed);
    auto loss = [&] {
      cpu().rms_norm.forward({.x = x.data(),
                              .residual = residual.data(),
                              .weight = weight.data(),
                              .sum = sum.data(),
                              .y = y.data(),
                              .rows = kRows,
                              .width = kWidth,
                              .weight_offset = 1,
                              .dtype = DType::f64},
                             stream);
      return weighted_sum(dy, y) + weighted_sum(dsum, sum);
    };
    loss();
    cpu().rms_norm.backward({.input = sum.data(),
                             .weight = weight.data(),
                             .dy = dy.data(),
                             .dsum = dsum.data(),
                             .dinput = dinput.data(),
                             .dweight = dweight.data(),
                             .rows = kRows,
                             .width = kWidth,
                             .weight_offset = 1,
                             .dtype = DType::f64},
                            stream);
    expect_gradient(x, dinput, loss);
    expect_gradient(residual, dinput, loss);
    expect_gradient(weight, dweight, loss);
  });
}

TYPED_TEST(RmsNormOfDType, BackwardAccumulatesAndPassesDsumOn) {
  using T = TypeParam;
  constexpr int64_t kRows = 50, kWidth = 576;
  for_each_isa([&](const Stream& stream) {
    Guarded<T> input(kRows * kWidth), weight(kWidth), dy(kRows * kWidth), dinput(kRows * kWidth), twice(kRows * kWidth);
    Guarded<SumOf<T>> dweight(kWidth), dweight_twice(kWidth);
    fill_random(input, 1);
    fill_random(weight, 2);
    fill_random(dy, 3);
    RmsNormBackwardArgs args{.input = input.data(),
                             .weight = weight.data(),
                             .dy = dy.data(),
                             .dinput = dinput.data(),
                             .dweight = dweight.data(),
                             .rows = kRows,
                             .width = kWidth,
                             .dtype = DTypeOf<T>::value};
    cpu().rms_norm.backward(args, stream);
    std::memcpy(twice.data(), dinput.data(), sizeof(T) * dinput.size());
    std::memcpy(dweight_twice.data(), dweight.data(), sizeof(SumOf<T>) * dweight.size());
    args.dinput = twice.data();
    args.dweight = dweight_twice.data();
    args.accumulate_input = args.accumulate_weight = true;
    cpu().rms_norm.backward(args, stream);
    std::vector<double> expected = dinput.values(), expected_weight = dweight.values();
    for (double& value : expected) value *= 2;
    for (double& value : expected_weight) value *= 2;
    expect_close(twice, expected, tolerance<T>(), 4);
    expect_close(dweight_twice, expected_weight, tolerance<SumOf<T>>(), 50);

    Guarded<T> passed(kRows * kWidth);
    cpu().rms_norm.backward({.input = input.data(),
                             .weight = weight.data(),
                             .dsum = dy.data(),
                             .dinput = passed.data(),
                             .dweight = dweight.data(),
                             .rows = kRows,
                             .width = kWidth,
                             .dtype = DTypeOf<T>::value},
                            stream);
    EXPECT_EQ(passed.values(), dy.values());
    EXPECT_EQ(dweight.values(), std::vector<double>(kWidth, 0.0));
  });
}

}  // namespace
}  // namespace weft
