// Each token gets the row of the token before it (RWKV's token shift: Peng et al., 2023).
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

/// Rows [begin, begin + length) of a packed pass.
struct TokenShiftSequence {
  int64_t begin = 0, length = 0;
  const void* before = nullptr;  // [width]: the row before the first one; null: zeros
  void* last = nullptr;          // [width]: gets the sequence's last row; null: not wanted; may be `before`
};

/// y[begin] = before, y[i] = x[i − 1] in each sequence.
struct TokenShiftForwardArgs {
  const void* x = nullptr;  // [rows, width]
  void* y = nullptr;        // [rows, width]; may not alias x
  std::span<const TokenShiftSequence> sequences;
  int64_t width = 0;
  DType dtype = DType::f32;
};

struct TokenShiftBackwardArgs {
  const void* dy = nullptr;  // [rows, width]
  void* dx = nullptr;        // [rows, width], overwritten
  void* dbefore = nullptr;   // [sequences, width], overwritten; or null
  std::span<const TokenShiftSequence> sequences;
  int64_t width = 0;
  DType dtype = DType::f32;
};

struct TokenShiftKernels {
  void (*forward)(const TokenShiftForwardArgs&, const Stream&) = nullptr;
  void (*backward)(const TokenShiftBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
