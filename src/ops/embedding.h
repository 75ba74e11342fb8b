// Row lookups.
#pragma once

#include <span>

#include "autograd/context.h"

namespace weft {

/// scale · table[id − row_begin] for each id, zeros for ids that other ranks hold. table is [rows, width], row-major or
/// packed; a packed one has no backward.
Tensor embedding(Context& context, const Tensor& table, std::span<const int32_t> ids, int64_t row_begin, float scale);

/// Rows of x by index.
Tensor gather_rows(Context& context, const Tensor& x, std::span<const int32_t> indices);

}  // namespace weft
