// Conversion between all of Weft's dtypes, integers included.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace weft {

/// Converts `count` values; floats are rounded as convert_dtype does, and cut towards zero when the target is an
/// integer. False when a value doesn't fit the target. The buffers must not overlap.
bool convert_values(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count);

}  // namespace weft
