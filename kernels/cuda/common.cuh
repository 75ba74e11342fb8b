// What the CUDA kernels share: element types, wide loads, sums over warps and blocks, dispatch on a dtype.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/device.h"

namespace weft::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float value) {
  return value;
}
__device__ __forceinline__ float to_float(bf16 value) {
  return __bfloat162float(value);
}
template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float value) {
  return __float2bfloat16_rn(value);
}

/// N neighbouring elements, moved by one instruction when they fill 4, 8 or 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

/// Elements in a 16-byte load.
template <typename T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

inline bool is_aligned(const void* pointer, size_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

/// Sum over the block, the same in every thread. `shared` has 33 elements; all threads of the block take part, and
/// their number is a multiple of 32.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* shared) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = warp_sum(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  if (warp == 0) {
    T part = lane < static_cast<int>(blockDim.x) / 32 ? shared[lane] : T(0);
    part = warp_sum(part);
    if (lane == 0) shared[32] = part;
  }
  __syncthreads();
  T total = shared[32];
  __syncthreads();
  return total;
}
__device__ __forceinline__ float block_max(float value, float* shared) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = warp_max(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  if (warp == 0) {
    float part = lane < static_cast<int>(blockDim.x) / 32 ? shared[lane] : -INFINITY;
    part = warp_max(part);
    if (lane == 0) shared[32] = part;
  }
  __syncthreads();
  float largest = shared[32];
  __syncthreads();
  return largest;
}

/// Calls body(T{}) with the element type of `dtype`: float or bf16.
template <typename Body>
void dispatch(DType dtype, const char* kernel, Body&& body) {
  switch (dtype) {
    case DType::f32:
      body(float{});
      return;
    case DType::bf16:
      body(bf16{});
      return;
    default:
      fail_dtype(kernel, dtype);
  }
}

inline int64_t ceil_div(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit;
}

/// Blocks for a loop in grid strides over `count` items with `threads` a block: enough to fill the device.
inline unsigned grid_for(const CudaDevice& device, int64_t count, int threads) {
  int64_t wanted = ceil_div(count, threads);
  int64_t full = static_cast<int64_t>(device.num_multiprocessors()) * (2048 / threads) * 4;
  return static_cast<unsigned>(wanted < full ? (wanted > 0 ? wanted : 1) : full);
}

}  // namespace weft::cuda
