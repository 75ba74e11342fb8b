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

template <typename T>
class LayerNormOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(LayerNormOfDType, KernelDTypes);

/// Which of the optional inputs are given.
struct LayerNormCase {
  int64_t rows = 5, width = 8, groups = 0;
  bool has_residual = false, has_weight = true, has_bias = true, subtract_mean = true;
};

std::vector<LayerNormCase> layer_norm_cases(int64_t width) {
  return {{.width = width},
          {.width = width, .has_residual = true},
          {.width = width, .has_bias = false},
          {.width = width, .has_weight = false, .has_bias = false, .subtract_mean = false},
          {.width = width, .groups = 3, .has_residual = true},
          {.width = width, .has_residual = true, .has_weight = false, .subtract_mean = false}};
}

/// Inputs, outputs and gradients of a case.
template <typename T>
struct LayerNormProblem {
  explicit LayerNormProblem(const LayerNormCase& test_case)
      : test(test_case),
        elements(test.rows * test.width),
        x(elements, 1),
        residual(elements, 3),
        weight(parameters(), 1),
        bias(parameters(), 2),
        sum(elements, 1),
        y(elements, 2),
        dy(elements, 1),
        dinput(elements, 3),
        dweight(parameters(), 1),
        dbias(parameters(), 1) {
    uint32_t seed = 0;
    for (Guarded<T>* buffer : {&x, &residual, &weight, &bias, &dy}) fill_random(*buffer, ++seed);
    for (int64_t row = 0; row < test.rows && test.groups > 0; ++row) {
      groups.push_back(static_cast<int32_t>(row * 2 % test.groups));
    }
  }

  int64_t parameters() const { return std::max<int64_t>(test.groups, 1) * test.width; }

  LayerNormForwardArgs forward_args() {
    return {.x = x.data(),
            .residual = test.has_residual ? residual.data() : nullptr,
            .weight = test.has_weight ? weight.data() : nullptr,
            .bias = test.has_bias ? bias.data() : nullptr,
            .groups = groups.empty() ? nullptr : groups.data(),
            .sum = test.has_residual ? sum.data() : nullptr,
            .y = y.data(),
            .rows = test.rows,
            .width = test.width,
            .eps = 1e-2,
            .subtract_mean = test.subtract_mean,
            .dtype = DTypeOf<T>::value};
  }

  /// Of what the last forward normed. Gradients of parameters start from 0.
  void backward(const Stream& stream) {
    for (auto* gradient : {&dweight, &dbias}) {
      for (int64_t i = 0; i < gradient->size(); ++i) (*gradient)[i] = 0;
    }
    cpu().layer_norm.backward({.input = test.has_residual ? sum.data() : x.data(),
                               .weight = test.has_weight ? weight.data() : nullptr,
                               .groups = groups.empty() ? nullptr : groups.data(),
                               .dy = dy.data(),
                               .dinput = dinput.data(),
                               .dweight = test.has_weight ? dweight.data() : nullptr,
                               .dbias = test.has_bias ? dbias.data() : nullptr,
                               .rows = test.rows,
                               .width = test.width,
                               .eps = 1e-2,
                               .subtract_mean = test.subtract_mean,
                               .dtype = DTypeOf<T>::value},
                              stream);
  }

  LayerNormCase test;
  int64_t elements;
  std::vector<int32_t> groups;
  Guarded<T> x, residual, weight, bias, sum, y, dy, dinput;
  Guarded<SumOf<T>> dweight, dbias;
};

/// Textbook layer norm in double of the sum rounded to T.
template <typename T>
std::vector<double> reference_layer_norm(const LayerNormProblem<T>& problem) {
  const LayerNormCase& test = problem.test;
  std::vector<double> y;
  for (int64_t row = 0; row < test.rows; ++row) {
    std::vector<double> input;
    double mean = 0, variance = 0;
    for (int64_t at = row * test.width; at < (row + 1) * test.width; ++at) {
      double sum = to_double(problem.x[at]) + (test.has_residual ? to_double(problem.residual[at]) : 0.0);
      input.push_back(to_double(from_double<T>(sum)));
      if (test.subtract_mean) mean += input.back() / static_cast<double>(test.width);
    }
    for (double value : input) variance += (value - mean) * (value - mean) / static_cast<double>(test.width);
    int64_t group = problem.groups.empty() ? 0 : problem.groups[static_cast<size_t>(row)];
    for (int64_t i = 0; i < test.width; ++i) {
      double weight = test.has_weight ? to_double(problem.weight[group * test.width + i]) : 1.0;
      double bias = test.has_bias ? to_double(problem.bias[group * test.width + i]) : 0.0;
      y.push_back((input[static_cast<size_t>(i)] - mean) / std::sqrt(variance + 1e-2) * weight + bias);
    }
  }
  return y;
}

TYPED_TEST(LayerNormOfDType, EqualsReferenceAtEveryWidth) {
  using T = TypeParam;
  std::vector<int64_t> widths = odd_widths();
  widths.insert(widths.end(), {36, 384});
  for (int64_t width : widths) {
    SCOPED_TRACE(width);
    for (const LayerNormCase& test : layer_norm_cases(width)) {
      LayerNormProblem<T> problem(test);
      std::vector<double> expected = reference_layer_norm(problem);
      for_each_isa([&](const Stream& stream) {
        cpu().layer_norm.forward(problem.forward_args(), stream);
        expect_close(problem.y, expected, tolerance<T>(), 4);
      });
    }
  }
}

TYPED_TEST(LayerNormOfDType, KeepsTheSumOnlyWhenAsked) {
  using T = TypeParam;
  LayerNormProblem<T> problem({.rows = 40, .width = 576, .has_residual = true});
  for_each_isa([&](const Stream& stream) {
    LayerNormForwardArgs args = problem.forward_args();
    cpu().layer_norm.forward(args, stream);
    for (int64_t i = 0; i < problem.elements; ++i) {
      double sum = to_double(problem.x[i]) + to_double(problem.residual[i]);
      ASSERT_EQ(to_double(problem.sum[i]), to_double(from_double<T>(sum)));
    }
    std::vector<double> kept = problem.y.values();
    args.sum = nullptr;
    cpu().layer_norm.forward(args, stream);
    EXPECT_EQ(problem.y.values(), kept);
  });
}

// E[x²] − E[x]² in f32 would be nothing but rounding here.
TEST(LayerNorm, SmallDeviationsFromALargeMeanSurvive) {
  LayerNormProblem<float> problem({.rows = 2, .width = 100});
  for (int64_t i = 0; i < problem.elements; ++i) problem.x[i] = 4096.0f + static_cast<float>(i % 7) * 0.125f;
  std::vector<double> expected = reference_layer_norm(problem);
  for_each_isa([&](const Stream& stream) {
    cpu().layer_norm.forward(problem.forward_args(), stream);
    // A mean of 4096 has an ulp of 5e-4, a thousandth of the deviation.
    expect_close(problem.y, expected, {.relative = 0, .absolute = 4e-3});
  });
}

TEST(LayerNorm, BackwardEqualsCentredDifferences) {
  for (int64_t width : {1, 7, 36}) {
    for (const LayerNormCase& test : layer_norm_cases(width)) {
      LayerNormProblem<double> problem(test);
      for_each_isa([&](const Stream& stream) {
        auto loss = [&] {
          cpu().layer_norm.forward(problem.forward_args(), stream);
          return weighted_sum(problem.dy, problem.y);
        };
        loss();
        problem.backward(stream);
        expect_gradient(problem.x, problem.dinput, loss);
        if (test.has_residual) expect_gradient(problem.residual, problem.dinput, loss);
        if (test.has_weight) expect_gradient(problem.weight, problem.dweight, loss);
        if (test.has_bias) expect_gradient(problem.bias, problem.dbias, loss);
      });
    }
  }
}

TYPED_TEST(LayerNormOfDType, BackwardEqualsDouble) {
  using T = TypeParam;
  for (int64_t width : {1, 7, 36, 384}) {
    for (LayerNormCase test : layer_norm_cases(width)) {
      test.rows = 61;
      LayerNormProblem<T> problem(test);
      LayerNormProblem<double> reference(test);
      cpu().layer_norm.forward(problem.forward_args(), {});
      // What was normed is what was rounded.
      for (int64_t i = 0; i < problem.elements; ++i) {
        reference.x[i] = reference.sum[i] = to_double(test.has_residual ? problem.sum[i] : problem.x[i]);
        reference.dy[i] = to_double(problem.dy[i]);
      }
      for (int64_t i = 0; i < problem.parameters(); ++i) reference.weight[i] = to_double(problem.weight[i]);
      reference.backward({});
      for_each_isa([&](const Stream& stream) {
        problem.backward(stream);
        expect_close(problem.dinput, reference.dinput.values(), tolerance<T>(), 16);
        expect_close(problem.dweight, reference.dweight.values(), tolerance<SumOf<T>>(), 60);
        expect_close(problem.dbias, reference.dbias.values(), tolerance<SumOf<T>>(), 60);
      });
    }
  }
}

}  // namespace
}  // namespace weft
