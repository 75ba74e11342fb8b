// The pieces of kernels/cuda/attention.cu's slots, one a file.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/device.h"

namespace weft::cuda {

/// Many queries a sequence: tiles of queries, each over all the keys that it sees.
void attention_forward_tiles(const AttentionForwardArgs& args, CudaDevice& device);

/// Few queries a sequence (decoding): the keys of each sequence are split over blocks and the parts combined.
void attention_forward_split(const AttentionForwardArgs& args, CudaDevice& device);

/// Most queries of one sequence for which attention_forward_split is meant.
inline constexpr int64_t kMaxSplitQueries = 8;

void attention_backward(const AttentionBackwardArgs& args, CudaDevice& device);

}  // namespace weft::cuda
