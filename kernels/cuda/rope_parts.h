// What kernels/cuda/rope.cu's slots have in files of their own.
#pragma once

#include "kernels/rope.h"

namespace weft::cuda {

void rotate_into_cache(const RotateIntoCacheArgs& args, const Stream& stream);

}  // namespace weft::cuda
