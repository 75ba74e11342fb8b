// The largest value of a row and its column, found by many threads.
#pragma once

#include <cstdint>

namespace weft::cuda {

struct Best {
  float value;
  int32_t column;  // -1: none yet
};

__device__ __forceinline__ Best better(Best a, Best b) {
  if (b.column < 0) return a;
  if (a.column < 0) return b;
  if (b.value > a.value || (b.value == a.value && b.column < a.column)) return b;
  return a;
}

/// The same in all lanes.
__device__ __forceinline__ Best best_of_warp(Best best) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    Best other{__shfl_xor_sync(0xffffffffu, best.value, distance), __shfl_xor_sync(0xffffffffu, best.column, distance)};
    best = better(best, other);
  }
  return best;
}

}  // namespace weft::cuda
