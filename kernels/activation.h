// Activations: y = act(x); and gated: y = act(gate) · up (Shazeer, "GLU Variants Improve Transformer", 2020).
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

enum class Activation : uint8_t { silu, gelu_tanh, gelu_erf, relu, identity, tanh, sigmoid, squared_relu };

struct ActivationForwardArgs {
  const void* x = nullptr;  // [count]
  void* y = nullptr;        // [count]; may alias x
  int64_t count = 0;
  Activation activation = Activation::silu;
  DType dtype = DType::f32;
};

struct ActivationBackwardArgs {
  const void* x = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;  // may alias dy
  int64_t count = 0;
  Activation activation = Activation::silu;
  DType dtype = DType::f32;
};

struct GatedActivationForwardArgs {
  const void* gate = nullptr;  // [count]
  const void* up = nullptr;    // [count]
  void* y = nullptr;           // [count]
  int64_t count = 0;
  Activation activation = Activation::silu;
  DType dtype = DType::f32;
};

struct GatedActivationBackwardArgs {
  const void* gate = nullptr;
  const void* up = nullptr;
  const void* dy = nullptr;
  void* dgate = nullptr;  // both overwritten, or null when not wanted
  void* dup = nullptr;
  int64_t count = 0;
  Activation activation = Activation::silu;
  DType dtype = DType::f32;
};

struct ActivationKernels {
  void (*forward)(const ActivationForwardArgs&, const Stream&) = nullptr;
  void (*backward)(const ActivationBackwardArgs&, const Stream&) = nullptr;
  void (*gated_forward)(const GatedActivationForwardArgs&, const Stream&) = nullptr;
  void (*gated_backward)(const GatedActivationBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
