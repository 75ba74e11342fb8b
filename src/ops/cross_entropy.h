// Cross entropy over a vocabulary that the tensor-parallel ranks share (Megatron-LM's vocabulary-parallel loss: Shoeybi
// et al., 2019).
#pragma once

#include <span>

#include "autograd/context.h"

namespace weft {

struct CrossEntropy {
  Tensor loss;        // one element: Σ weight·loss / Σ weight over the rows with a target
  Tensor token_loss;  // [rows], unweighted; 0 where the target is −1
};

/// logits are this rank's columns [column_begin, …) of the vocabulary, [rows, columns] in f32 or f64. Targets are ids
/// of the whole vocabulary, −1 to ignore a row; `weights` one a row, empty for all ones. The loss is the same on every
/// rank.
CrossEntropy cross_entropy(Context& context,
                           const Tensor& logits,
                           std::span<const int32_t> targets,
                           std::span<const float> weights,
                           int64_t column_begin);

}  // namespace weft
