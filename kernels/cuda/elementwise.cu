#include "kernels/elementwise.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/elementwise_parts.h"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/random.cuh"

namespace weft::cuda {
namespace {

/// y_in is read only if kAdds.
template <typename X, typename Y, bool kAdds>
struct Axpby {
  const X* x;
  const Y* y_in;
  Y* y;
  float a, b;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float values[N];
    load_floats(x + i, values);
    if constexpr (kAdds) {
      float terms[N];
      load_floats(y_in + i, terms);
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = a * values[k] + b * terms[k];
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] *= a;
    }
    store_floats(y + i, values);
  }
};

template <typename X, typename Y, bool kAdds>
void run_axpby(const AxpbyArgs& args, CudaDevice& device) {
  constexpr int kSize = kPackSize < X >> kPackSize<Y> ? kPackSize<X> : kPackSize<Y>;
  Axpby<X, Y, kAdds> body{static_cast<const X*>(args.x),
                          static_cast<const Y*>(args.y_in),
                          static_cast<Y*>(args.y),
                          static_cast<float>(args.a),
                          static_cast<float>(args.b)};
  bool fits = packs_fit(body.x, kSize) && packs_fit(body.y, kSize) && (!kAdds || packs_fit(body.y_in, kSize));
  launch_packs<kSize>(device, args.count, fits, body, "axpby");
}

void axpby(const AxpbyArgs& args, const Stream& stream) {
  dispatch(args.x_dtype, "axpby", [&](auto x_zero) {
    dispatch(args.y_dtype, "axpby", [&](auto y_zero) {
      using X = decltype(x_zero);
      using Y = decltype(y_zero);
      if (args.b == 0) {
        run_axpby<X, Y, false>(args, device_of(stream));
      } else {
        run_axpby<X, Y, true>(args, device_of(stream));
      }
    });
  });
}

template <typename T>
struct SoftCap {
  const T* x;
  T* y;
  float cap, inverse_cap;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float values[N];
    load_floats(x + i, values);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = cap * tanhf(values[k] * inverse_cap);
    store_floats(y + i, values);
  }
};

void soft_cap(const SoftCapArgs& args, const Stream& stream) {
  dispatch(args.dtype, "soft_cap", [&](auto zero) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    SoftCap<T> body{static_cast<const T*>(args.x), static_cast<T*>(args.y), args.cap, 1.0f / args.cap};
    bool fits = packs_fit(body.x, kSize) && packs_fit(body.y, kSize);
    launch_packs<kSize>(device_of(stream), args.count, fits, body, "soft_cap");
  });
}

template <typename T>
struct SoftCapBackward {
  const T* y;
  const T* dy;
  T* dx;
  float inverse_cap;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float values[N], gradients[N];
    load_floats(y + i, values);
    load_floats(dy + i, gradients);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float tangent = values[k] * inverse_cap;
      gradients[k] *= 1.0f - tangent * tangent;
    }
    store_floats(dx + i, gradients);
  }
};

void soft_cap_backward(const SoftCapBackwardArgs& args, const Stream& stream) {
  dispatch(args.dtype, "soft_cap_backward", [&](auto zero) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    SoftCapBackward<T> body{
        static_cast<const T*>(args.y), static_cast<const T*>(args.dy), static_cast<T*>(args.dx), 1.0f / args.cap};
    bool fits = packs_fit(body.y, kSize) && packs_fit(body.dy, kSize) && packs_fit(body.dx, kSize);
    launch_packs<kSize>(device_of(stream), args.count, fits, body, "soft_cap_backward");
  });
}

template <typename T>
struct Dropout {
  const T* x;
  T* y;
  int64_t width, global_width, first;  // `first` is the global index of element 0
  float probability, scale;
  RandomKey key;

  /// The N elements lie in one row.
  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    int64_t row = i / width;
    uint32_t bits[N];
    random_bits(key, static_cast<uint64_t>(first + row * global_width + (i - row * width)), bits);
    float values[N];
    load_floats(x + i, values);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float uniform = static_cast<float>(bits[k] >> 8) * 0x1p-24f;
      values[k] = uniform >= probability ? values[k] * scale : 0.0f;
    }
    store_floats(y + i, values);
  }
};

void dropout(const DropoutArgs& args, const Stream& stream) {
  int64_t count = args.rows * args.width;
  if (count == 0) return;
  // Whole rows follow each other without a gap: one long row.
  bool is_whole = args.width == args.global_width;
  dispatch(args.dtype, "dropout", [&](auto zero) {
    using T = decltype(zero);
    constexpr int kSize = kPackSize<T>;
    Dropout<T> body{.x = static_cast<const T*>(args.x),
                    .y = static_cast<T*>(args.y),
                    .width = is_whole ? count : args.width,
                    .global_width = args.global_width,
                    .first = args.row_begin * args.global_width + args.column_begin,
                    .probability = args.probability,
                    .scale = 1.0f / (1.0f - args.probability),
                    .key = args.key};
    bool fits = packs_fit(body.x, kSize) && packs_fit(body.y, kSize) && (is_whole || args.width % kSize == 0);
    launch_packs<kSize>(device_of(stream), count, fits, body, "dropout");
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

ElementwiseKernels cuda_elementwise_kernels() {
  return {.axpby = cuda::axpby,
          .soft_cap = cuda::soft_cap,
          .soft_cap_backward = cuda::soft_cap_backward,
          .softmax = cuda::softmax,
          .softmax_backward = cuda::softmax_backward,
          .dropout = cuda::dropout,
          .transpose = cuda::transpose,
          .column_scale = cuda::column_scale,
          .column_scale_backward = cuda::column_scale_backward,
          .argmax = cuda::argmax,
          .random_normal = cuda::random_normal};
}

}  // namespace weft
