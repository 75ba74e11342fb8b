// The norm by which gradients are clipped.
#pragma once

#include <vector>

#include "optimizer/optimizer.h"

namespace weft {

/// ‖g‖ over all parameters, each element counted once over the tensor-parallel ranks and, with sharing.data_parallel,
/// over the data-parallel ones; the same to the bit on every rank. Not finite if a gradient is not. Collective over the
/// ranks of PieceSharing. Clipping to c as torch does multiplies the gradients by min(1, c/(‖g‖ + 1e-6)).
double global_grad_norm(const Context& context,
                        const std::vector<OptimizerPiece>& pieces,
                        TensorParallelPlace place,
                        const PieceSharing& sharing);

}  // namespace weft
