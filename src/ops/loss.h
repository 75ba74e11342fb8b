// Losses of heads with few outputs. All return one element in f32 (f64 for f64).
#pragma once

#include <cstdint>
#include <span>

#include "autograd/context.h"
#include "ops/cross_entropy.h"

namespace weft {

/// Mean over rows (weighted by `weights`, one a row, or all ones) of −log softmax(logits)[target]. logits is [rows,
/// classes]; targets of −1 are ignored. LossReduction::sum takes the weights as they are.
Tensor softmax_cross_entropy(Context& context,
                             const Tensor& logits,
                             std::span<const int32_t> targets,
                             std::span<const float> weights = {},
                             LossReduction reduction = LossReduction::mean);

/// Mean over all elements (weighted likewise) of the cross entropy of sigmoid(logits) and targets in [0, 1].
Tensor binary_cross_entropy(Context& context,
                            const Tensor& logits,
                            std::span<const float> targets,
                            std::span<const float> weights = {});

/// A choice among rows [begin, begin + length) of one column: row begin + target.
struct ColumnTarget {
  int64_t begin = 0, length = 0;
  int32_t column = 0;
  int64_t target = 0;
  float weight = 1;
};

/// Σ weight · −log softmax over a target's rows of its column [target]. logits is [rows, columns].
Tensor column_cross_entropy(Context& context, const Tensor& logits, std::span<const ColumnTarget> targets);

}  // namespace weft
