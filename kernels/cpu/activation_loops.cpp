#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/simd.h"

namespace weft::WEFT_ISA {
namespace {

// An activation gives its value, and value and slope together for backward.
template <typename R>
struct ValueAndSlope {
  R value;
  R slope;
};

struct Silu {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return x * sigmoid(x);
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    R s = sigmoid(x);
    return {x * s, s * (R(1) + x * (R(1) - s))};
  }
};

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))), and (1 + tanh u)/2 = sigmoid(2u).
struct GeluTanh {
  template <typename R>
  static WEFT_INLINE R twice_argument(R x) {
    constexpr R kTwiceRootTwoOverPi = R(1.5957691216057307117597842397375);
    return kTwiceRootTwoOverPi * (x + R(0.044715) * x * x * x);
  }
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return x * sigmoid(twice_argument(x));
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    constexpr R kTwiceRootTwoOverPi = R(1.5957691216057307117597842397375);
    R s = sigmoid(twice_argument(x));
    R inner_slope = kTwiceRootTwoOverPi * (R(1) + R(3 * 0.044715) * x * x);
    return {x * s, s + x * s * (R(1) - s) * inner_slope};
  }
};

struct GeluErf {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return x * normal_cdf(x);
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    constexpr R kInverseRootTwoPi = R(0.39894228040143267793994605993438);
    R cdf = normal_cdf(x);
    return {x * cdf, cdf + x * kInverseRootTwoPi * exponential(R(-0.5) * x * x)};
  }
};

struct Relu {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return x < R(0) ? R(0) : x;
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    return {value(x), x > R(0) ? R(1) : R(0)};
  }
};

struct Identity {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return x;
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    return {x, R(1)};
  }
};

struct Tanh {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return hyperbolic_tangent(x);
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    R t = hyperbolic_tangent(x);
    return {t, R(1) - t * t};
  }
};

struct Sigmoid {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    return sigmoid(x);
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    R s = sigmoid(x);
    return {s, s * (R(1) - s)};
  }
};

/// max(x, 0)² (So et al., "Primer", 2021).
struct SquaredRelu {
  template <typename R>
  static WEFT_INLINE R value(R x) {
    R positive = Relu::value(x);
    return positive * positive;
  }
  template <typename R>
  static WEFT_INLINE ValueAndSlope<R> value_and_slope(R x) {
    R positive = Relu::value(x);
    return {positive * positive, R(2) * positive};
  }
};

template <typename Body>
WEFT_INLINE void for_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::silu:
      return body(Silu{});
    case Activation::gelu_tanh:
      return body(GeluTanh{});
    case Activation::gelu_erf:
      return body(GeluErf{});
    case Activation::relu:
      return body(Relu{});
    case Activation::identity:
      return body(Identity{});
    case Activation::tanh:
      return body(Tanh{});
    case Activation::sigmoid:
      return body(Sigmoid{});
    case Activation::squared_relu:
      return body(SquaredRelu{});
  }
}

template <typename T, typename Function>
void forward_range(const ActivationForwardArgs& args, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(args.x);
  round_each(
      static_cast<T*>(args.y), begin, end, [&](int64_t i) WEFT_INLINE_LAMBDA { return Function::value(load(x[i])); });
}

template <typename T, typename Function>
void backward_range(const ActivationBackwardArgs& args, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(args.x);
  const T* dy = static_cast<const T*>(args.dy);
  round_each(static_cast<T*>(args.dx), begin, end, [&](int64_t i) WEFT_INLINE_LAMBDA {
    return load(dy[i]) * Function::value_and_slope(load(x[i])).slope;
  });
}

template <typename T, typename Function>
void forward_range(const GatedActivationForwardArgs& args, int64_t begin, int64_t end) {
  const T* gate = static_cast<const T*>(args.gate);
  const T* up = static_cast<const T*>(args.up);
  round_each(static_cast<T*>(args.y), begin, end, [&](int64_t i) WEFT_INLINE_LAMBDA {
    return Function::value(load(gate[i])) * load(up[i]);
  });
}

template <typename T, typename Function>
void backward_range(const GatedActivationBackwardArgs& args, int64_t begin, int64_t end) {
  const T* gate = static_cast<const T*>(args.gate);
  const T* up = static_cast<const T*>(args.up);
  const T* dy = static_cast<const T*>(args.dy);
  T* dgate = static_cast<T*>(args.dgate);
  T* dup = static_cast<T*>(args.dup);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    Real<T> gradient = load(dy[i]);
    Real<T> up_value = load(up[i]);
    ValueAndSlope<Real<T>> activated = Function::value_and_slope(load(gate[i]));
    if (dgate != nullptr) dgate[i] = round_to<T>(gradient * up_value * activated.slope);
    if (dup != nullptr) dup[i] = round_to<T>(gradient * activated.value);
  }
}

}  // namespace

void activation_forward(const ActivationForwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) {
    for_activation(args.activation, [&]<typename Function>(Function) { forward_range<T, Function>(args, begin, end); });
  });
}

void activation_backward(const ActivationBackwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) {
    for_activation(args.activation,
                   [&]<typename Function>(Function) { backward_range<T, Function>(args, begin, end); });
  });
}

void gated_forward(const GatedActivationForwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) {
    for_activation(args.activation, [&]<typename Function>(Function) { forward_range<T, Function>(args, begin, end); });
  });
}

void gated_backward(const GatedActivationBackwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) {
    for_activation(args.activation,
                   [&]<typename Function>(Function) { backward_range<T, Function>(args, begin, end); });
  });
}

}  // namespace weft::WEFT_ISA
