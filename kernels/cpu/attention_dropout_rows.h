// What dropout makes of attention weights, for the loops that are compiled once for each instruction set.
#pragma once

#include "kernels/attention_dropout.h"
#include "kernels/cpu/random_blocks.h"

namespace weft::WEFT_ISA {

/// factors[i] = `kept` where the weight with index first + i counts, else 0; `count` is at most most_keys.
template <int most_keys, typename R>
void dropout_factors(const AttentionDropout& dropout, uint64_t first, int64_t count, R kept, R* factors) {
  uint32_t bits[most_keys + 8];
  int64_t skipped = static_cast<int64_t>(first & 3);
  random_blocks(dropout.key, first >> 2, (skipped + count + 3) / 4, bits);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    float uniform = static_cast<float>(static_cast<int32_t>(bits[skipped + i] >> 8)) * 0x1p-24f;
    factors[i] = uniform >= dropout.probability ? kept : R(0);
  }
}

}  // namespace weft::WEFT_ISA
