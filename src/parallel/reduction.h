// The arithmetic of all_reduce and reduce_scatter, shared by the backends on host memory.
#pragma once

#include <span>
#include <vector>

#include "parallel/communicator.h"

namespace weft {

/// out[i] = parts[0][i] op parts[1][i] op …, always in this order: so the result is the same to the bit whoever
/// computes it. bf16 accumulates in f32 and rounds once. A NaN wins max and min. `out` may be one of `parts`. Throws
/// Error(communication) for a dtype without arithmetic.
void reduce_parts(DType dtype, ReduceOp op, std::span<const void* const> parts, void* out, int64_t count);

/// The addresses of `count` parts that lie `stride` bytes apart.
std::vector<const void*> strided_parts(const void* first, int64_t stride, int count);

/// Throws Error(communication) unless `dtype` is one that reduce_parts takes.
void check_reducible(DType dtype);

}  // namespace weft
