// Backward of attention in bf16 whose weights were dropped: the kernels for any score do for all.
#include "kernels/cuda/attention_backward_mma.cuh"

namespace weft::cuda {

void launch_backward_mma_dropout(const BackwardParams& params,
                                 BackwardTiles keys,
                                 BackwardTiles queries,
                                 CudaDevice& device) {
  with_padded_dim(params.head_dim,
                  [&](auto dim) { launch_passes<dim(), Scoring::any_dropped>(params, keys, queries, device); });
}

}  // namespace weft::cuda
