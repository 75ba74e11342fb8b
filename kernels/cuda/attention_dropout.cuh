// Which attention weights dropout leaves (kernels/attention_dropout.h), found out by the lanes together.
//
// A Philox block has the numbers of four neighbouring keys of one query, and the weights of these lie in two or four
// lanes. Each of the lanes draws blocks that the others do not, and they exchange what came of it, a bit a weight. So
// keys pass by in tiles that begin at a multiple of four.
#pragma once

#include "kernels/attention_dropout.h"
#include "kernels/cuda/random.cuh"

namespace weft::cuda {

/// Keys of a Philox block.
inline constexpr int kDrawnKeys = 4;

/// Where tiles of keys begin that have to hold `key`.
constexpr int first_drawn_key(int key) {
  return key / kDrawnKeys * kDrawnKeys;
}

/// Bits 4·j + k, for j below kBlocks and k below 4: whether the weight with index first(j) + k counts. first(j) is a
/// multiple of 4.
template <int kBlocks, typename First>
__device__ __forceinline__ uint32_t draw_kept(const AttentionDropout& dropout, const First& first) {
  static_assert(kBlocks <= 8);
  // Bits below these are those whose RandomKey::uniform is below the probability.
  uint32_t least = static_cast<uint32_t>(ceilf(dropout.probability * 0x1p24f)) << 8;
  uint32_t kept = 0;
#pragma unroll 2
  for (int j = 0; j < kBlocks; ++j) {
    uint32_t words[kDrawnKeys];
    philox_block(dropout.key, first(j) / kDrawnKeys, words);
    uint32_t of_block = 0;
#pragma unroll
    for (int k = 0; k < kDrawnKeys; ++k) of_block |= static_cast<uint32_t>(words[k] >= least) << k;
    kept |= of_block << (kDrawnKeys * j);
  }
  return kept;
}

/// For two lanes that are kDistance apart and have two of the four keys each, in two lines of weights. The first has
/// drawn the first line, the second the second. Bits 4·j + 2·line + k: of this lane's k-th key.
template <int kDistance>
__device__ __forceinline__ uint32_t kept_of_two_lanes(uint32_t drawn) {
  constexpr uint32_t kTwoOfFour = 0x33333333u;
  bool is_second = static_cast<int>(threadIdx.x) / kDistance % 2 != 0;
  uint32_t other = __shfl_xor_sync(0xffffffffu, drawn, kDistance);
  uint32_t first_line = is_second ? other >> 2 : drawn;
  uint32_t second_line = is_second ? drawn >> 2 : other;
  return (first_line & kTwoOfFour) | (second_line & kTwoOfFour) << 2;
}

/// For four lanes, each kDistance from the next, that have one of the four keys each, in four lines of weights. Each
/// has drawn the line of its number. Bits 4·j + line: of this lane's key.
template <int kDistance>
__device__ __forceinline__ uint32_t kept_of_four_lanes(uint32_t drawn) {
  constexpr uint32_t kOneOfFour = 0x11111111u;
  int lane = static_cast<int>(threadIdx.x) % 32, place = lane / kDistance % 4;
  uint32_t kept = 0;
#pragma unroll
  for (int line = 0; line < 4; ++line) {
    uint32_t of_line = __shfl_sync(0xffffffffu, drawn, lane + (line - place) * kDistance);
    kept |= (of_line >> place & kOneOfFour) << line;
  }
  return kept;
}

/// Whether bit `place` says that a weight counts.
__device__ __forceinline__ bool is_kept(uint32_t kept, int place) {
  return (kept >> place & 1) != 0;
}

}  // namespace weft::cuda
