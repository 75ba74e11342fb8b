// The conjugate collectives of tensor parallelism (Megatron-LM: Shoeybi et al., 2019), over context.tensor_parallel.
// With one rank they return x.
#pragma once

#include "autograd/context.h"
#include "ops/linear.h"

namespace weft {

/// Identity forward, all-reduce backward: before column-parallel products. Where ranks' sums go on beside computing, it
/// does so beside the products for the gradients of the weights that x is multiplied with.
Tensor copy_to_tp(Context& context, const Tensor& x);
/// All-reduce forward, identity backward: after row-parallel products. Works in place: the argument must not be used
/// after.
Tensor reduce_from_tp(Context& context, const Tensor& x);
/// reduce_from_tp(linear(x)). From `rows_worth_halving` on in two halves, where ranks' sums go on beside computing: the
/// sum of the first beside the product of the second.
Tensor linear_reduced_from_tp(Context& context,
                              const Tensor& x,
                              const LinearParameters& parameters,
                              int64_t rows_worth_halving = 4096);
/// Sequence parallelism (Korthikanti et al., "Reducing activation recomputation in large transformer models", 2022):
/// between tensor-parallel regions each rank holds ceil(tokens / size) rows, zeros past the end.
///
/// All-gather forward, reduce-scatter backward: before column-parallel products. x is this rank's share; the result has
/// num_tokens rows.
Tensor gather_tokens_from_tp(Context& context, const Tensor& x, int64_t num_tokens);
/// Reduce-scatter forward, all-gather backward: after row-parallel products. x has all rows, the result this rank's.
Tensor scatter_tokens_to_tp(Context& context, const Tensor& x);
/// This rank's rows of an x that is the same on all ranks; backward brings the gradients of all together.
Tensor split_tokens_to_tp(Context& context, const Tensor& x);

/// Into and out of a tensor-parallel region, as context.sequence_parallel says: copy_to_tp and reduce_from_tp, or
/// gather_tokens_from_tp and scatter_tokens_to_tp. Outside x has this rank's rows, inside all num_tokens.
Tensor enter_tensor_parallel(Context& context, const Tensor& x, int64_t num_tokens);
Tensor leave_tensor_parallel(Context& context, const Tensor& x);

/// x for something that every rank computes alike: its gradient, the same on every rank, is passed on as this rank's
/// part of the sum.
Tensor share_gradient_over_tp(Context& context, const Tensor& x);

/// Columns of all ranks side by side; backward keeps this rank's. Ranks hold ceil(total / size) columns of [rows,
/// total], the last ones fewer.
Tensor gather_columns_from_tp(Context& context, const Tensor& x, int64_t total_columns);

/// First column (or row) of a rank when `total` is shared in parts of ceil(total / size).
int64_t even_part_begin(int64_t total, int rank, int size);

}  // namespace weft
