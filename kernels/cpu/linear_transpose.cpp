#include "kernels/cpu/linear_transpose.h"

#include <algorithm>

namespace weft {
namespace {

constexpr int64_t kSquare = 8;
/// A cache line of each row.
constexpr int64_t kColumnBlock = 32;

typedef uint16_t Eight __attribute__((vector_size(16)));
typedef uint16_t UnalignedEight __attribute__((vector_size(16), aligned(2), may_alias));

/// Rows i and i + 4 are interleaved into rows 2i and 2i + 1; three times so gives the transposed square.
inline void interleave(Eight (&rows)[kSquare]) {
  Eight result[kSquare];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    result[2 * i] = __builtin_shufflevector(rows[i], rows[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    result[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kSquare; ++i) rows[i] = result[i];
}

inline void transpose_square(const TransposeBf16& args, int64_t row, int64_t column) {
  Eight rows[kSquare];
  const uint16_t* from = args.from + row * args.from_stride + column;
#pragma GCC unroll 8
  for (int i = 0; i < kSquare; ++i) rows[i] = *reinterpret_cast<const UnalignedEight*>(from + i * args.from_stride);
  interleave(rows);
  interleave(rows);
  interleave(rows);
  uint16_t* to = args.to + column * args.to_stride + row;
#pragma GCC unroll 8
  for (int i = 0; i < kSquare; ++i) *reinterpret_cast<UnalignedEight*>(to + i * args.to_stride) = rows[i];
}

void transpose_elements(const TransposeBf16& args, int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
  for (; row < row_end; ++row) {
    for (int64_t c = column; c < column_end; ++c)
      args.to[c * args.to_stride + row] = args.from[row * args.from_stride + c];
  }
}

}  // namespace

void transpose_bf16(const TransposeBf16& args) {
  int64_t whole_rows = args.rows / kSquare * kSquare;
  int64_t whole_columns = args.columns / kSquare * kSquare;
  for (int64_t block = 0; block < whole_columns; block += kColumnBlock) {
    int64_t block_end = std::min(whole_columns, block + kColumnBlock);
    for (int64_t row = 0; row < whole_rows; row += kSquare) {
      for (int64_t column = block; column < block_end; column += kSquare) transpose_square(args, row, column);
    }
  }
  transpose_elements(args, 0, whole_rows, whole_columns, args.columns);
  transpose_elements(args, whole_rows, args.rows, 0, args.columns);
}

}  // namespace weft
