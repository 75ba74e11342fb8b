// What optimizers exchange: sums over a whole parameter's pieces.
#pragma once

#include <vector>

#include "optimizer/optimizer.h"

namespace weft {

/// Replaces `values` by their sums over the ranks of `sharing`, the same to the bit on all of them. Collective.
void sum_over_pieces(const Context& context, const PieceSharing& sharing, std::vector<double>& values);

}  // namespace weft
