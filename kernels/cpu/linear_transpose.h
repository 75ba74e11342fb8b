// Transposition of bf16 matrices on the calling thread.
#pragma once

#include <cstdint>

namespace weft {

/// to[column, row] = from[row, column]. Strides are in elements.
struct TransposeBf16 {
  const uint16_t* from = nullptr;
  int64_t from_stride = 0;
  int64_t rows = 0, columns = 0;
  uint16_t* to = nullptr;
  int64_t to_stride = 0;
};
void transpose_bf16(const TransposeBf16& args);

}  // namespace weft
