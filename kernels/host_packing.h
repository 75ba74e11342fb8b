// Packing for devices that do not round weights themselves.
#pragma once

#include "kernels/linear.h"

namespace weft {

/// LinearKernels::pack of quantized layouts for packed weights in a device's memory: rows are rounded on the host, then
/// copied. Several threads may do so at a time.
void pack_on_host(const PackArgs& args, const Stream& stream);

}  // namespace weft
