// Weights of 8 or 4 bits (kernels/quantized_shape.h): how rows get there and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quantized_shape.h"

namespace weft {

/// Rounds rows of f32.
void pack_quantized_weight(const PackArgs& args, const Stream& stream);
void unpack_quantized_rows(const UnpackRowsArgs& args, const Stream& stream);

}  // namespace weft
