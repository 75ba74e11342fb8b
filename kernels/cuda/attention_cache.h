// The small kernels beside attention: new keys and values into a cache, biases by distance from their table and back.
#pragma once

#include <span>

#include "kernels/attention.h"
#include "kernels/cuda/device.h"

namespace weft::cuda {

void cache_write(std::span<const CacheWriteArgs> writes, CudaDevice& device);
void bias_expand(const BiasExpandArgs& args, CudaDevice& device);
void bias_reduce(const BiasReduceArgs& args, CudaDevice& device);

}  // namespace weft::cuda
