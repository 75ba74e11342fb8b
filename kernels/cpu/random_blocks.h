// Many random numbers at once, for the loops that are compiled once for each instruction set.
#pragma once

#include "core/random.h"
#include "kernels/cpu/loop_math.h"

namespace weft::WEFT_ISA {

/// bits[i] = key.bits(4·first_block + i) (RandomKey), for `count` blocks; written out here so that it becomes vector
/// code over the blocks.
WEFT_INLINE void random_blocks(const RandomKey& key, uint64_t first_block, int64_t count, uint32_t* bits) {
  uint32_t seed_low = static_cast<uint32_t>(key.seed), seed_high = static_cast<uint32_t>(key.seed >> 32);
  uint32_t step = key.step, site = key.site;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    uint64_t block = first_block + static_cast<uint64_t>(i);
    uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = step, c3 = site;
    uint32_t k0 = seed_low, k1 = seed_high;
    for (int round = 0; round < 10; ++round) {
      uint64_t product0 = uint64_t{0xD2511F53u} * c0;
      uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
      uint32_t n0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
      uint32_t n2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(product1);
      c3 = static_cast<uint32_t>(product0);
      c0 = n0;
      c2 = n2;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    bits[4 * i] = c0;
    bits[4 * i + 1] = c1;
    bits[4 * i + 2] = c2;
    bits[4 * i + 3] = c3;
  }
}

}  // namespace weft::WEFT_ISA
