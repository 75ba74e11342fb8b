// A rank's slice of a tensor as runs of elements of the whole.
#pragma once

#include <cstdint>

#include "core/shape.h"

namespace weft {

/// Part [begin, end) of one dimension of a tensor.
struct TensorSlice {
  int dim = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

/// Calls run(first, local, count) for elements [begin, end) of a slice, in order: `count` elements that lie one after
/// the other at `first` in the whole tensor and at `local` in the slice (both row-major). A slice along dim 0 is one
/// run, one along dim 1 a run a row.
template <typename Run>
void for_each_run(const Shape& shape, const TensorSlice& slice, int64_t begin, int64_t end, const Run& run) {
  int64_t inner = 1;
  for (int dim = slice.dim + 1; dim < shape.rank(); ++dim) inner *= shape[dim];
  int64_t width = (slice.end - slice.begin) * inner;
  int64_t stride = shape[slice.dim] * inner;
  int64_t offset = slice.begin * inner;
  if (begin >= end) return;
  if (slice.dim == 0 || width == stride) return run(offset + begin, begin, end - begin);
  for (int64_t local = begin; local < end;) {
    int64_t column = local % width;
    int64_t count = width - column < end - local ? width - column : end - local;
    run(local / width * stride + offset + column, local, count);
    local += count;
  }
}

}  // namespace weft
