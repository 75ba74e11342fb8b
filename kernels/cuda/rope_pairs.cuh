// Turning the pairs of a head (kernels/rope.h), several of them a thread.
#pragma once

#include "kernels/cuda/common.cuh"

namespace weft::cuda {

template <typename T>
__device__ __forceinline__ void turn(T& first, T& second, float cosine, float sine) {
  float a = to_float(first), b = to_float(second);
  first = from_float<T>(a * cosine - b * sine);
  second = from_float<T>(b * cosine + a * sine);
}

/// Item i turns the pairs from i·N on: elements i·N … and half + i·N …. `to` may be `from`.
template <typename T, int N>
__device__ __forceinline__ void turn_half_split(
    T* to, const T* from, const float* cos_sin, int item, int half, float direction) {
  int at = item * N;
  Pack<T, N> first = *reinterpret_cast<const Pack<T, N>*>(from + at);
  Pack<T, N> second = *reinterpret_cast<const Pack<T, N>*>(from + half + at);
  Pack<float, N> cosines = *reinterpret_cast<const Pack<float, N>*>(cos_sin + at);
  Pack<float, N> sines = *reinterpret_cast<const Pack<float, N>*>(cos_sin + half + at);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    turn(first.values[i], second.values[i], cosines.values[i], sines.values[i] * direction);
  }
  *reinterpret_cast<Pack<T, N>*>(to + at) = first;
  *reinterpret_cast<Pack<T, N>*>(to + half + at) = second;
}

/// Item i turns the N pairs of elements 2·i·N …. A single pair is moved as two elements, as it may not be aligned.
template <typename T, int N>
__device__ __forceinline__ void turn_interleaved(
    T* to, const T* from, const float* cos_sin, int item, int half, float direction) {
  int at = item * N;
  if constexpr (N == 1) {
    T first = from[2 * at], second = from[2 * at + 1];
    turn(first, second, cos_sin[at], cos_sin[half + at] * direction);
    to[2 * at] = first;
    to[2 * at + 1] = second;
    return;
  }
  Pack<T, 2 * N> turned = *reinterpret_cast<const Pack<T, 2 * N>*>(from + 2 * at);
  Pack<float, N> cosines = *reinterpret_cast<const Pack<float, N>*>(cos_sin + at);
  Pack<float, N> sines = *reinterpret_cast<const Pack<float, N>*>(cos_sin + half + at);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    turn(turned.values[2 * i], turned.values[2 * i + 1], cosines.values[i], sines.values[i] * direction);
  }
  *reinterpret_cast<Pack<T, 2 * N>*>(to + 2 * at) = turned;
}

template <typename T, int N, bool kInterleaved>
__device__ __forceinline__ void turn_item(
    T* to, const T* from, const float* cos_sin, int item, int half, float direction) {
  if constexpr (kInterleaved) {
    turn_interleaved<T, N>(to, from, cos_sin, item, half, direction);
  } else {
    turn_half_split<T, N>(to, from, cos_sin, item, half, direction);
  }
}

}  // namespace weft::cuda
