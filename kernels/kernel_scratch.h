// Scratch memory of the CPU kernels (kernels/cpu), which they take for one call from the workspace.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace weft {

/// Rows of x, and the weight's [out_features, in_features].
struct LinearSizes {
  int64_t rows = 0, out_features = 0, in_features = 0;
};

/// Of any product: copies of rows that would collide in a cache.
int64_t spread_rows_scratch(DType dtype, int64_t rows, int64_t columns, int num_threads);
/// With a weight as it lies in training.
int64_t linear_forward_scratch(DType dtype, const LinearSizes& sizes, int num_threads);
/// With a quantized weight: few rows filled up to whole groups, or for more the panels that threads widen.
int64_t quantized_linear_scratch(DType dtype, const LinearSizes& sizes, int num_threads);
int64_t linear_backward_input_scratch(DType dtype, const LinearSizes& sizes, int num_threads);
int64_t linear_backward_weight_scratch(DType dtype, const LinearSizes& sizes);

int64_t rms_norm_backward_scratch(int64_t rows);
int64_t layer_norm_backward_scratch(int64_t rows);

/// Queries of a prompt that attention works on at a time; `rows` are all queries' heads, `group` query heads to a key
/// head.
int64_t queries_per_piece(int64_t rows, int64_t group, int num_threads);
/// Keys of a piece for a single query. The cut does not depend on the number of threads, so neither does the result.
constexpr int64_t kDecodeKeys = 256;
/// Pieces of a single query's keys.
int64_t decode_pieces(int64_t num_keys);

}  // namespace weft
