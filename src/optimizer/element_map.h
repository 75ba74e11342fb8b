// Where a rank's slice of a parameter lies in the whole.
#pragma once

#include "kernels/optimizer.h"
#include "nn/parameter.h"

namespace weft {

/// Of the slice's elements from local element `first` on.
ElementMap element_map(const Shape& full_shape, const ShardRange& range, int64_t first);

/// Elements of the slice.
int64_t slice_elements(const Shape& full_shape, const ShardRange& range);

}  // namespace weft
