#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/elementwise_parts.h"

namespace weft::cuda {
namespace {

constexpr int kWarpsPerBlock = 8;
/// Rows up to this width are left to a warp each.
constexpr int64_t kWarpWidth = 1024;
constexpr int kRowThreads = 512;

/// The threads that share one row: a block, or one warp of it.
template <bool kIsBlock>
struct RowThreads {
  float* shared;  // 33 elements, for a block

  __device__ __forceinline__ int64_t row() const {
    return kIsBlock ? int64_t{blockIdx.x} : int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / 32;
  }
  __device__ __forceinline__ int first() const {
    return kIsBlock ? static_cast<int>(threadIdx.x) : static_cast<int>(threadIdx.x % 32);
  }
  static constexpr int kCount = kIsBlock ? kRowThreads : 32;

  __device__ __forceinline__ float sum(float value) const {
    if constexpr (kIsBlock) return block_sum(value, shared);
    return warp_sum(value);
  }
  __device__ __forceinline__ float max(float value) const {
    if constexpr (kIsBlock) return block_max(value, shared);
    return warp_max(value);
  }
};

/// The exponentials are computed twice rather than stored: y may be narrower than they are. Later passes over a row
/// come from the caches.
template <typename T, bool kIsBlock>
__global__ void __launch_bounds__(kRowThreads) softmax_kernel(const T* x, T* y, int64_t rows, int64_t width) {
  __shared__ float shared[33];
  RowThreads<kIsBlock> threads{shared};
  int64_t row = threads.row();
  if (row >= rows) return;
  x += row * width;
  y += row * width;
  float maximum = -INFINITY;
#pragma unroll 4
  for (int64_t i = threads.first(); i < width; i += threads.kCount) maximum = fmaxf(maximum, to_float(x[i]));
  maximum = threads.max(maximum);
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threads.first(); i < width; i += threads.kCount) sum += expf(to_float(x[i]) - maximum);
  float inverse_sum = 1.0f / threads.sum(sum);
  for (int64_t i = threads.first(); i < width; i += threads.kCount) {
    y[i] = from_float<T>(expf(to_float(x[i]) - maximum) * inverse_sum);
  }
}

template <typename T, bool kIsBlock>
__global__ void __launch_bounds__(kRowThreads)
    softmax_backward_kernel(const T* y, const T* dy, T* dx, int64_t rows, int64_t width) {
  __shared__ float shared[33];
  RowThreads<kIsBlock> threads{shared};
  int64_t row = threads.row();
  if (row >= rows) return;
  y += row * width;
  dy += row * width;
  dx += row * width;
  float dot = 0;
#pragma unroll 4
  for (int64_t i = threads.first(); i < width; i += threads.kCount) dot += to_float(y[i]) * to_float(dy[i]);
  dot = threads.sum(dot);
  for (int64_t i = threads.first(); i < width; i += threads.kCount) {
    dx[i] = from_float<T>(to_float(y[i]) * (to_float(dy[i]) - dot));
  }
}

}  // namespace

void softmax(const SoftmaxArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  cudaStream_t queue = device_of(stream).stream();
  dispatch(args.dtype, "softmax", [&](auto zero) {
    using T = decltype(zero);
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    if (args.width <= kWarpWidth) {
      auto blocks = static_cast<unsigned>(ceil_div(args.rows, kWarpsPerBlock));
      softmax_kernel<T, false><<<blocks, 32 * kWarpsPerBlock, 0, queue>>>(x, y, args.rows, args.width);
    } else {
      auto blocks = static_cast<unsigned>(args.rows);
      softmax_kernel<T, true><<<blocks, kRowThreads, 0, queue>>>(x, y, args.rows, args.width);
    }
  });
  check_launch("softmax");
}

void softmax_backward(const SoftmaxBackwardArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  cudaStream_t queue = device_of(stream).stream();
  dispatch(args.dtype, "softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* y = static_cast<const T*>(args.y);
    const T* dy = static_cast<const T*>(args.dy);
    T* dx = static_cast<T*>(args.dx);
    if (args.width <= kWarpWidth) {
      auto blocks = static_cast<unsigned>(ceil_div(args.rows, kWarpsPerBlock));
      softmax_backward_kernel<T, false><<<blocks, 32 * kWarpsPerBlock, 0, queue>>>(y, dy, dx, args.rows, args.width);
    } else {
      auto blocks = static_cast<unsigned>(args.rows);
      softmax_backward_kernel<T, true><<<blocks, kRowThreads, 0, queue>>>(y, dy, dx, args.rows, args.width);
    }
  });
  check_launch("softmax_backward");
}

}  // namespace weft::cuda
