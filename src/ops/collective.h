// The conjugate collectives of tensor parallelism (Megatron-LM: Shoeybi et al., 2019), over context.tensor_parallel.
// With one rank they return x.
#pragma once

#include "autograd/context.h"

namespace weft {

/// Identity forward, all-reduce backward: before column-parallel products.
Tensor copy_to_tp(Context& context, const Tensor& x);
/// All-reduce forward, identity backward: after row-parallel products. Works in place: the argument must not be used
/// after.
Tensor reduce_from_tp(Context& context, const Tensor& x);
/// Columns of all ranks side by side; backward keeps this rank's. Ranks hold ceil(total / size) columns of [rows,
/// total], the last ones fewer.
Tensor gather_columns_from_tp(Context& context, const Tensor& x, int64_t total_columns);

/// First column (or row) of a rank when `total` is shared in parts of ceil(total / size).
int64_t even_part_begin(int64_t total, int rank, int size);

}  // namespace weft
