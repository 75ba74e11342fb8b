// The nearest orthogonal matrix, about: what Muon makes of its momentum.
#pragma once

#include "autograd/context.h"

namespace weft {

/// An f32 matrix [rows, columns] with its singular values brought near 1 (0.7 … 1.2) by five steps of a quintic
/// Newton–Schulz iteration (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024). Zero stays
/// zero.
Tensor orthogonalize(const Context& context, const Tensor& matrix);

}  // namespace weft
