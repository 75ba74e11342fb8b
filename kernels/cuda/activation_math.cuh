// The activations of kernels/activation.h on the device, with their slopes. The formulas are those of
// kernels/cpu/activation_loops.cpp; NaN passes through all of them.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/activation.h"
#include "kernels/cuda/check.h"

namespace weft::cuda {

struct ValueAndSlope {
  float value;
  float slope;
};

/// 1 / (1 + e^-x).
__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

/// sigmoid(2u), which is (1 + tanh u)/2, where u is the argument of GELU's tanh: √(2/π)·(x + 0.044715·x³).
__device__ __forceinline__ float gelu_tanh_weight(float x) {
  constexpr float kTwiceRootTwoOverPi = 1.5957691216057307f;
  return sigmoid(kTwiceRootTwoOverPi * (x + 0.044715f * x * x * x));
}

/// Activation A of x and its slope there; what the two share is computed once.
template <Activation A>
__device__ __forceinline__ ValueAndSlope activation_value_and_slope(float x) {
  if constexpr (A == Activation::silu) {
    float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  } else if constexpr (A == Activation::gelu_tanh) {
    constexpr float kTwiceRootTwoOverPi = 1.5957691216057307f;
    float s = gelu_tanh_weight(x);
    float inner_slope = kTwiceRootTwoOverPi * (1.0f + 3 * 0.044715f * x * x);
    return {x * s, s + x * s * (1.0f - s) * inner_slope};
  } else if constexpr (A == Activation::gelu_erf) {
    constexpr float kInverseRootTwoPi = 0.39894228040143268f;
    float cdf = normcdff(x);
    return {x * cdf, cdf + x * kInverseRootTwoPi * expf(-0.5f * x * x)};
  } else if constexpr (A == Activation::relu) {
    return {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f};
  } else if constexpr (A == Activation::tanh) {
    float t = tanhf(x);
    return {t, 1.0f - t * t};
  } else if constexpr (A == Activation::sigmoid) {
    float s = sigmoid(x);
    return {s, s * (1.0f - s)};
  } else if constexpr (A == Activation::squared_relu) {
    float positive = x < 0.0f ? 0.0f : x;
    return {positive * positive, 2.0f * positive};
  } else {
    static_assert(A == Activation::identity);
    return {x, 1.0f};
  }
}

template <Activation A>
__device__ __forceinline__ float activate(float x) {
  return activation_value_and_slope<A>(x).value;
}

template <Activation A>
__device__ __forceinline__ float activation_derivative(float x) {
  return activation_value_and_slope<A>(x).slope;
}

/// An activation as a type, for dispatch_activation.
template <Activation A>
using ActivationConstant = std::integral_constant<Activation, A>;

/// Calls body(ActivationConstant<A>{}) for the activation; usable on the host (to choose a kernel's instance) and on
/// the device (where the branch is the same for every thread).
template <typename Body>
__host__ __device__ __forceinline__ void dispatch_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::silu:
      return body(ActivationConstant<Activation::silu>{});
    case Activation::gelu_tanh:
      return body(ActivationConstant<Activation::gelu_tanh>{});
    case Activation::gelu_erf:
      return body(ActivationConstant<Activation::gelu_erf>{});
    case Activation::relu:
      return body(ActivationConstant<Activation::relu>{});
    case Activation::identity:
      return body(ActivationConstant<Activation::identity>{});
    case Activation::tanh:
      return body(ActivationConstant<Activation::tanh>{});
    case Activation::sigmoid:
      return body(ActivationConstant<Activation::sigmoid>{});
    case Activation::squared_relu:
      return body(ActivationConstant<Activation::squared_relu>{});
  }
}

__device__ __forceinline__ float activate(float x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return activate<Activation::silu>(x);
    case Activation::gelu_tanh:
      return activate<Activation::gelu_tanh>(x);
    case Activation::gelu_erf:
      return activate<Activation::gelu_erf>(x);
    case Activation::relu:
      return activate<Activation::relu>(x);
    case Activation::tanh:
      return activate<Activation::tanh>(x);
    case Activation::sigmoid:
      return activate<Activation::sigmoid>(x);
    case Activation::squared_relu:
      return activate<Activation::squared_relu>(x);
    case Activation::identity:
      break;
  }
  return x;
}

__device__ __forceinline__ float activation_derivative(float x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return activation_derivative<Activation::silu>(x);
    case Activation::gelu_tanh:
      return activation_derivative<Activation::gelu_tanh>(x);
    case Activation::gelu_erf:
      return activation_derivative<Activation::gelu_erf>(x);
    case Activation::relu:
      return activation_derivative<Activation::relu>(x);
    case Activation::tanh:
      return activation_derivative<Activation::tanh>(x);
    case Activation::sigmoid:
      return activation_derivative<Activation::sigmoid>(x);
    case Activation::squared_relu:
      return activation_derivative<Activation::squared_relu>(x);
    case Activation::identity:
      break;
  }
  return 1.0f;
}

}  // namespace weft::cuda
