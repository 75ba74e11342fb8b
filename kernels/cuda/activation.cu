#include "kernels/activation.h"

#include "kernels/cuda/activation_math.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packs.cuh"

namespace weft::cuda {
namespace {

template <typename T, Activation A>
struct Forward {
  const T* x;
  T* y;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float values[N];
    load_floats(x + i, values);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = activate<A>(values[k]);
    store_floats(y + i, values);
  }
};

template <typename T, Activation A>
struct Backward {
  const T* x;
  const T* dy;
  T* dx;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float values[N], gradients[N];
    load_floats(x + i, values);
    load_floats(dy + i, gradients);
#pragma unroll
    for (int k = 0; k < N; ++k) gradients[k] *= activation_derivative<A>(values[k]);
    store_floats(dx + i, gradients);
  }
};

template <typename T, Activation A>
struct GatedForward {
  const T* gate;
  const T* up;
  T* y;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float gates[N], ups[N];
    load_floats(gate + i, gates);
    load_floats(up + i, ups);
#pragma unroll
    for (int k = 0; k < N; ++k) ups[k] *= activate<A>(gates[k]);
    store_floats(y + i, ups);
  }
};

/// dgate and dup may each be null.
template <typename T, Activation A>
struct GatedBackward {
  const T* gate;
  const T* up;
  const T* dy;
  T* dgate;
  T* dup;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float gates[N], ups[N], gradients[N];
    load_floats(gate + i, gates);
    load_floats(up + i, ups);
    load_floats(dy + i, gradients);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      ValueAndSlope activated = activation_value_and_slope<A>(gates[k]);
      gates[k] = gradients[k] * ups[k] * activated.slope;
      ups[k] = gradients[k] * activated.value;
    }
    if (dgate != nullptr) store_floats(dgate + i, gates);
    if (dup != nullptr) store_floats(dup + i, ups);
  }
};

/// Calls body(T{}, ActivationConstant<A>{}) for the element type and the activation.
template <typename Args, typename Body>
void choose(const Args& args, const char* kernel, const Body& body) {
  dispatch(args.dtype, kernel, [&](auto zero) {
    dispatch_activation(args.activation, [&](auto activation) { body(zero, activation); });
  });
}

void forward(const ActivationForwardArgs& args, const Stream& stream) {
  choose(args, "activation", [&](auto zero, auto activation) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    Forward<T, decltype(activation)::value> body{static_cast<const T*>(args.x), static_cast<T*>(args.y)};
    bool fits = packs_fit(body.x, kSize) && packs_fit(body.y, kSize);
    launch_packs<kSize>(device_of(stream), args.count, fits, body, "activation");
  });
}

void backward(const ActivationBackwardArgs& args, const Stream& stream) {
  choose(args, "activation_backward", [&](auto zero, auto activation) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    Backward<T, decltype(activation)::value> body{
        static_cast<const T*>(args.x), static_cast<const T*>(args.dy), static_cast<T*>(args.dx)};
    bool fits = packs_fit(body.x, kSize) && packs_fit(body.dy, kSize) && packs_fit(body.dx, kSize);
    launch_packs<kSize>(device_of(stream), args.count, fits, body, "activation_backward");
  });
}

void gated_forward(const GatedActivationForwardArgs& args, const Stream& stream) {
  choose(args, "gated_activation", [&](auto zero, auto activation) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    GatedForward<T, decltype(activation)::value> body{
        static_cast<const T*>(args.gate), static_cast<const T*>(args.up), static_cast<T*>(args.y)};
    bool fits = packs_fit(body.gate, kSize) && packs_fit(body.up, kSize) && packs_fit(body.y, kSize);
    launch_packs<kSize>(device_of(stream), args.count, fits, body, "gated_activation");
  });
}

void gated_backward(const GatedActivationBackwardArgs& args, const Stream& stream) {
  choose(args, "gated_activation_backward", [&](auto zero, auto activation) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    GatedBackward<T, decltype(activation)::value> body{static_cast<const T*>(args.gate),
                                                       static_cast<const T*>(args.up),
                                                       static_cast<const T*>(args.dy),
                                                       static_cast<T*>(args.dgate),
                                                       static_cast<T*>(args.dup)};
    bool fits = packs_fit(body.gate, kSize) && packs_fit(body.up, kSize) && packs_fit(body.dy, kSize) &&
                packs_fit(body.dgate, kSize) && packs_fit(body.dup, kSize);
    launch_packs<kSize>(device_of(stream), args.count, fits, body, "gated_activation_backward");
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

ActivationKernels cuda_activation_kernels() {
  return {.forward = cuda::forward,
          .backward = cuda::backward,
          .gated_forward = cuda::gated_forward,
          .gated_backward = cuda::gated_backward};
}

}  // namespace weft
