// Rows of matrices without any gradient, which lazy updates leave as they are.
#pragma once

#include "optimizer/piece_set.h"

namespace weft {

/// Sets the active runs of every piece to the rows (of dim 0) whose gradient is not all zero on any rank; vectors are
/// active throughout. Needs the directory. Collective over the ranks of PieceSharing.
void find_active_rows(PieceSet& pieces);

}  // namespace weft
