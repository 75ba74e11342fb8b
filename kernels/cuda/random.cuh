// The random numbers of core/random.h on the device, several neighbours at a time.
#pragma once

#include <cstdint>

#include "core/random.h"

namespace weft::cuda {

/// words[k] = key.bits(4·block + k) for k < 4.
__device__ __forceinline__ void philox_block(const RandomKey& key, uint64_t block, uint32_t* words) {
  auto numbers = philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key.step, key.site},
                            {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
#pragma unroll
  for (int k = 0; k < 4; ++k) words[k] = numbers[k];
}

/// bits[k] = key.bits(first + k) for k < needed (at most N; the rest is undefined), each Philox block made once.
template <int N>
__device__ __forceinline__ void random_bits(const RandomKey& key, uint64_t first, uint32_t (&bits)[N], int needed = N) {
  constexpr int kBlocks = (N + 3) / 4;
  constexpr int kWords = 4 * (kBlocks + 1);
  uint32_t words[kWords] = {};
  uint64_t block = first / 4;
  auto shift = static_cast<int>(first % 4);
#pragma unroll
  for (int k = 0; k < kBlocks; ++k) philox_block(key, block + k, words + 4 * k);
  if (shift + needed > 4 * kBlocks) philox_block(key, block + kBlocks, words + 4 * kBlocks);
  // Moved down by `shift` in steps that leave every index a constant, so that the words stay in registers.
  if (shift & 2) {
#pragma unroll
    for (int k = 0; k + 2 < kWords; ++k) words[k] = words[k + 2];
  }
  if (shift & 1) {
#pragma unroll
    for (int k = 0; k + 1 < kWords; ++k) words[k] = words[k + 1];
  }
#pragma unroll
  for (int k = 0; k < N; ++k) bits[k] = words[k];
}

}  // namespace weft::cuda
