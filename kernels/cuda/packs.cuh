// Loops over the elements of arrays, 16 bytes at a time where the addresses allow it.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::cuda {

inline constexpr int kPackThreads = 256;

/// Whether `elements` neighbours from here may be moved by the loads below.
template <typename T>
bool packs_fit(const T* pointer, int elements) {
  size_t bytes = sizeof(T) * static_cast<size_t>(elements);
  return is_aligned(pointer, bytes < 16 ? bytes : 16);
}

/// How many elements of T go into one instruction when N neighbours are moved.
template <typename T, int N>
inline constexpr int kChunk = N < kPackSize<T> ? N : kPackSize<T>;

template <int N, typename T>
__device__ __forceinline__ void load_pack(const T* from, T (&values)[N]) {
#pragma unroll
  for (int first = 0; first < N; first += kChunk<T, N>) {
    auto pack = *reinterpret_cast<const Pack<T, kChunk<T, N>>*>(from + first);
#pragma unroll
    for (int k = 0; k < kChunk<T, N>; ++k) values[first + k] = pack.values[k];
  }
}

template <int N, typename T>
__device__ __forceinline__ void store_pack(T* to, const T (&values)[N]) {
#pragma unroll
  for (int first = 0; first < N; first += kChunk<T, N>) {
    Pack<T, kChunk<T, N>> pack;
#pragma unroll
    for (int k = 0; k < kChunk<T, N>; ++k) pack.values[k] = values[first + k];
    *reinterpret_cast<Pack<T, kChunk<T, N>>*>(to + first) = pack;
  }
}

/// N neighbours as f32.
template <int N, typename T>
__device__ __forceinline__ void load_floats(const T* from, float (&values)[N]) {
  T raw[N];
  load_pack<N>(from, raw);
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] = to_float(raw[k]);
}

/// N neighbours from f32, rounded to nearest even.
template <int N, typename T>
__device__ __forceinline__ void store_floats(T* to, const float (&values)[N]) {
  T raw[N];
#pragma unroll
  for (int k = 0; k < N; ++k) raw[k] = from_float<T>(values[k]);
  store_pack<N>(to, raw);
}

/// body.run<N>(i) for packs [i, i + N), body.run<1>(i) for what is left over.
template <int N, typename Body>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(int64_t count, Body body) {
  let_next_start();
  wait_for_previous();
  int64_t stride = int64_t{gridDim.x} * kPackThreads * N;
  int64_t i = (int64_t{blockIdx.x} * kPackThreads + threadIdx.x) * N;
  for (; i + N <= count; i += stride) body.template run<N>(i);
  if constexpr (N > 1) {
    for (; i < count; ++i) body.template run<1>(i);
  }
}

/// Runs the body over [0, count), in packs of N if the caller found that they fit all arrays. Body is a struct with
/// `template <int N> __device__ void run(int64_t i) const`; it may write where it read, since packs do not overlap. Its
/// launches overlap (launch.cuh), so it reads by plain loads.
template <int N, typename Body>
void launch_packs(CudaDevice& device, int64_t count, bool fits, const Body& body, const char* kernel) {
  if (count <= 0) return;
  if (fits) {
    unsigned blocks = grid_for(device, ceil_div(count, N), kPackThreads);
    launch(pack_kernel<N, Body>, blocks, kPackThreads, 0, device, count, body);
  } else {
    unsigned blocks = grid_for(device, count, kPackThreads);
    launch(pack_kernel<1, Body>, blocks, kPackThreads, 0, device, count, body);
  }
  check_launch(kernel);
}

}  // namespace weft::cuda
