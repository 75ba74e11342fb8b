// The multilabel categorical cross entropy (Su, 2020): any number of classes apply, those with a score above 0.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// log(1 + Σ over unmarked of e^s) + log(1 + Σ over marked of e^−s) of one set of scores; its gradient takes their
/// place.
double multilabel_loss(std::vector<double>& scores, const std::vector<bool>& is_marked);

/// Σ over rows of weight · that loss. logits is [rows, classes]; `labels` are each row's classes, any number of them.
/// One element in f32 (f64 for f64).
Tensor multilabel_cross_entropy(Context& context,
                                const Tensor& logits,
                                std::span<const std::vector<int32_t>> labels,
                                std::span<const float> weights);

}  // namespace weft
