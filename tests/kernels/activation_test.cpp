#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class GatedActivationOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(GatedActivationOfDType, KernelDTypes);

constexpr Activation kActivations[] = {Activation::silu,
                                       Activation::gelu_tanh,
                                       Activation::gelu_erf,
                                       Activation::relu,
                                       Activation::identity,
                                       Activation::tanh,
                                       Activation::sigmoid,
                                       Activation::squared_relu};

double reference_activation(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::identity:
      return x;
    case Activation::tanh:
      return std::tanh(x);
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::squared_relu:
      return std::max(x, 0.0) * std::max(x, 0.0);
  }
  return 0;
}

TYPED_TEST(GatedActivationOfDType, ForwardEqualsReferenceAtEveryLength) {
  using T = TypeParam;
  for (Activation activation : kActivations) {
    for (int64_t count : odd_widths()) {
      SCOPED_TRACE(count);
      for_each_isa([&](const Stream& stream) {
        Guarded<T> gate(count, 1), up(count, 2), y(count, 3);
        fill_random(gate, 1, 3);
        fill_random(up, 2);
        cpu().activation.gated_forward({.gate = gate.data(),
                                        .up = up.data(),
                                        .y = y.data(),
                                        .count = count,
                                        .activation = activation,
                                        .dtype = DTypeOf<T>::value},
                                       stream);
        std::vector<double> expected(count);
        for (int64_t i = 0; i < count; ++i)
          expected[i] = reference_activation(activation, to_double(gate[i])) * to_double(up[i]);
        expect_close(y, expected, tolerance<T>());
      });
    }
  }
}

// Gates from the far negative to the far positive: the tails of exp, tanh and erf.
TEST(GatedActivation, TailsAreAccurate) {
  constexpr int64_t kCount = 40001;
  for (Activation activation : kActivations) {
    for_each_isa([&](const Stream& stream) {
      Guarded<float> gate(kCount), up(kCount, 0, 1.0f), y(kCount);
      std::vector<double> expected(kCount);
      const int64_t middle = kCount / 2;
      for (int64_t i = 0; i < kCount; ++i) {
        gate[i] = static_cast<float>(i - middle) * 0.005f;
        expected[i] = reference_activation(activation, gate[i]);
      }
      cpu().activation.gated_forward(
          {.gate = gate.data(), .up = up.data(), .y = y.data(), .count = kCount, .activation = activation}, stream);
      // x·Φ(x) with a Φ whose absolute error is 1e-7 where it is nearly 0.
      double absolute = activation == Activation::gelu_erf ? 6e-7 : 2e-7;
      expect_close(y, expected, {.relative = 2e-6, .absolute = absolute});
    });
  }
}

TEST(GatedActivation, InfinityAndNanKeepTheirMeaning) {
  for_each_isa([&](const Stream& stream) {
    Guarded<float> gate(20, 0, 1.0f), up(20, 0, 1.0f), y(20);
    gate[3] = std::nanf("");
    gate[4] = INFINITY;
    up[18] = std::nanf("");
    for (Activation activation : kActivations) {
      cpu().activation.gated_forward(
          {.gate = gate.data(), .up = up.data(), .y = y.data(), .count = 20, .activation = activation}, stream);
      for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(y[i]), i == 3 || i == 18) << i;
      EXPECT_EQ(y[4], static_cast<float>(reference_activation(activation, INFINITY)));
    }
  });
}

TEST(GatedActivation, BackwardEqualsCentredDifferences) {
  constexpr int64_t kCount = 41;
  for (Activation activation : kActivations) {
    for_each_isa([&](const Stream& stream) {
      Guarded<double> gate(kCount), up(kCount), y(kCount), dy(kCount), dgate(kCount), dup(kCount);
      fill_random(gate, 1, 2);
      fill_random(up, 2);
      fill_random(dy, 3);
      auto loss = [&] {
        cpu().activation.gated_forward({.gate = gate.data(),
                                        .up = up.data(),
                                        .y = y.data(),
                                        .count = kCount,
                                        .activation = activation,
                                        .dtype = DType::f64},
                                       stream);
        return weighted_sum(dy, y);
      };
      cpu().activation.gated_backward({.gate = gate.data(),
                                       .up = up.data(),
                                       .dy = dy.data(),
                                       .dgate = dgate.data(),
                                       .dup = dup.data(),
                                       .count = kCount,
                                       .activation = activation,
                                       .dtype = DType::f64},
                                      stream);
      expect_gradient(gate, dgate, loss);
      expect_gradient(up, dup, loss);
    });
  }
}

TYPED_TEST(GatedActivationOfDType, BackwardEqualsDouble) {
  using T = TypeParam;
  constexpr int64_t kCount = 20011;
  for (Activation activation : kActivations) {
    Guarded<T> gate(kCount, 1), up(kCount, 1), dy(kCount, 1);
    Guarded<double> gate_double(kCount), up_double(kCount), dy_double(kCount), dgate_double(kCount), dup_double(kCount);
    fill_random(gate, 1, 2);
    fill_random(up, 2);
    fill_random(dy, 3);
    for (int64_t i = 0; i < kCount; ++i) {
      gate_double[i] = to_double(gate[i]);
      up_double[i] = to_double(up[i]);
      dy_double[i] = to_double(dy[i]);
    }
    GatedActivationBackwardArgs args{.gate = gate_double.data(),
                                     .up = up_double.data(),
                                     .dy = dy_double.data(),
                                     .dgate = dgate_double.data(),
                                     .dup = dup_double.data(),
                                     .count = kCount,
                                     .activation = activation,
                                     .dtype = DType::f64};
    cpu().activation.gated_backward(args, {});
    for_each_isa([&](const Stream& stream) {
      Guarded<T> dgate(kCount, 1), dup(kCount, 1);
      args.gate = gate.data();
      args.up = up.data();
      args.dy = dy.data();
      args.dgate = dgate.data();
      args.dup = nullptr;
      args.dtype = DTypeOf<T>::value;
      cpu().activation.gated_backward(args, stream);
      args.dgate = nullptr;
      args.dup = dup.data();
      cpu().activation.gated_backward(args, stream);
      expect_close(dgate, dgate_double.values(), tolerance<T>(), 4);
      expect_close(dup, dup_double.values(), tolerance<T>(), 4);
    });
  }
}

template <typename T>
class ActivationOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(ActivationOfDType, KernelDTypes);

TYPED_TEST(ActivationOfDType, ForwardEqualsReferenceAtEveryLength) {
  using T = TypeParam;
  for (Activation activation : kActivations) {
    for (int64_t count : odd_widths()) {
      SCOPED_TRACE(count);
      for_each_isa([&](const Stream& stream) {
        Guarded<T> x(count, 1), y(count, 3);
        fill_random(x, 1, 3);
        std::vector<double> expected;
        for (double value : x.values()) expected.push_back(reference_activation(activation, value));
        ActivationForwardArgs args{
            .x = x.data(), .y = y.data(), .count = count, .activation = activation, .dtype = DTypeOf<T>::value};
        cpu().activation.forward(args, stream);
        expect_close(y, expected, tolerance<T>());
        args.y = x.data();
        cpu().activation.forward(args, stream);
        EXPECT_EQ(x.values(), y.values()) << "in place";
      });
    }
  }
}

// Within a few roundings of x over all that f32 tells apart from 0 and x.
TEST(Activation, GeluOfErfIsAccurateToRounding) {
  constexpr int64_t kCount = 260001;
  Guarded<float> x(kCount), y(kCount);
  const int64_t middle = kCount / 2;
  for (int64_t i = 0; i < kCount; ++i) x[i] = static_cast<float>(i - middle) * 1e-4f;
  for_each_isa([&](const Stream& stream) {
    cpu().activation.forward({.x = x.data(), .y = y.data(), .count = kCount, .activation = Activation::gelu_erf},
                             stream);
    double worst = 0;
    for (int64_t i = 0; i < kCount; ++i) {
      if (x[i] == 0) continue;
      double error = std::abs(y[i] - reference_activation(Activation::gelu_erf, x[i]));
      worst = std::max(worst, error / std::abs(static_cast<double>(x[i])));
    }
    EXPECT_LT(worst, 2.5e-7);
  });
}

TEST(Activation, BackwardEqualsCentredDifferences) {
  constexpr int64_t kCount = 41;
  for (Activation activation : kActivations) {
    for_each_isa([&](const Stream& stream) {
      Guarded<double> x(kCount), y(kCount), dy(kCount), dx(kCount);
      fill_random(x, 1, 2);
      fill_random(dy, 3);
      auto loss = [&] {
        cpu().activation.forward(
            {.x = x.data(), .y = y.data(), .count = kCount, .activation = activation, .dtype = DType::f64}, stream);
        return weighted_sum(dy, y);
      };
      cpu().activation.backward({.x = x.data(),
                                 .dy = dy.data(),
                                 .dx = dx.data(),
                                 .count = kCount,
                                 .activation = activation,
                                 .dtype = DType::f64},
                                stream);
      expect_gradient(x, dx, loss);
    });
  }
}

TYPED_TEST(ActivationOfDType, BackwardEqualsDouble) {
  using T = TypeParam;
  constexpr int64_t kCount = 20011;
  for (Activation activation : kActivations) {
    Guarded<T> x(kCount, 1), dy(kCount, 1);
    Guarded<double> x_double(kCount), dy_double(kCount), dx_double(kCount);
    fill_random(x, 1, 2);
    fill_random(dy, 3);
    for (int64_t i = 0; i < kCount; ++i) {
      x_double[i] = to_double(x[i]);
      dy_double[i] = to_double(dy[i]);
    }
    ActivationBackwardArgs args{.x = x_double.data(),
                                .dy = dy_double.data(),
                                .dx = dx_double.data(),
                                .count = kCount,
                                .activation = activation,
                                .dtype = DType::f64};
    cpu().activation.backward(args, {});
    for_each_isa([&](const Stream& stream) {
      Guarded<T> dx(kCount, 2);
      args.x = x.data();
      args.dy = dy.data();
      args.dx = dx.data();
      args.dtype = DTypeOf<T>::value;
      cpu().activation.backward(args, stream);
      expect_close(dx, dx_double.values(), tolerance<T>(), 4);
    });
  }
}

}  // namespace
}  // namespace weft
