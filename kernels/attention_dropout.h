// Dropout of attention weights (Srivastava et al., 2014; after the softmax, as in Devlin et al., 2018).
#pragma once

#include <cstdint>

#include "core/random.h"

namespace weft {

/// Keys that a sequence may have where weights are dropped.
inline constexpr int64_t kMaxDroppedKeys = int64_t{1} << 20;

/// The weight that query row r of head h gives to its sequence's key j does not count where
/// key.uniform(first_index(r, h) + j) < probability, and counts 1 / (1 − probability) times elsewhere; the sum that
/// normalises the weights is that of all. Rows and heads are numbered over all ranks, so that a rank that holds only
/// some of them drops the same weights as one that holds all.
struct AttentionDropout {
  float probability = 0;  // 0: none
  RandomKey key;
  int64_t row_begin = 0;     // of the first row
  int64_t head_begin = 0;    // of the first head
  int64_t global_heads = 0;  // on all ranks

  constexpr bool drops() const { return probability > 0; }
  constexpr float kept_scale() const { return 1.0f / (1.0f - probability); }
  constexpr uint64_t first_index(int64_t row, int64_t head) const {
    return static_cast<uint64_t>(((row_begin + row) * global_heads + head_begin + head) * kMaxDroppedKeys);
  }
};

}  // namespace weft
