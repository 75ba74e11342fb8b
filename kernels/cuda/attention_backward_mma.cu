// Backward of attention in bf16: which kernels a call takes.
#include "kernels/cuda/attention_backward_mma.cuh"

namespace weft::cuda {
namespace {

template <int kDim>
void launch_scoring(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device) {
  if (params.bias != nullptr || params.dbias != nullptr)
    return launch_passes<kDim, Scoring::any>(params, keys, queries, device);
  if (params.soft_cap > 0) {
    BackwardParams capped = params;
    capped.score_factor *= 4;  // weigh_capped leaves it out
    return launch_passes<kDim, Scoring::capped>(capped, keys, queries, device);
  }
  launch_passes<kDim, Scoring::plain>(params, keys, queries, device);
}

}  // namespace

BackwardTileSizes backward_mma_tile_sizes(int64_t head_dim) {
  return with_padded_dim(head_dim, [](auto dim) {
    return BackwardTileSizes{.keys = BlockForm<dim(), true>::kOwnRows,
                             .queries = BlockForm<dim(), false>::kOwnRows,
                             .queries_of_keys = BlockForm<dim(), true>::kOtherRows};
  });
}

void launch_backward_mma(const BackwardParams& params, BackwardTiles keys, BackwardTiles queries, CudaDevice& device) {
  if (params.dropout.drops()) return launch_backward_mma_dropout(params, keys, queries, device);
  with_padded_dim(params.head_dim, [&](auto dim) { launch_scoring<dim()>(params, keys, queries, device); });
}

}  // namespace weft::cuda
