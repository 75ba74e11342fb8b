// Attention over many queries in bf16 whose weights are dropped: in training only, so that few kernels do for all.
#include "kernels/cuda/attention_forward_mma.cuh"

namespace weft::cuda {

void attention_forward_mma_dropout(const AttentionForwardArgs& args, CudaDevice& device) {
  DroppingForwardParams params(args);
  // The curve's branches cover every score, also one that is nothing but a product.
  if (args.head_dim <= 64) return launch<Shape<64, 1, 64, true, true>>(args, params, device);
  if (args.head_dim <= 128) return launch<Shape<128, 1, 64, true, true>>(args, params, device);
  launch<Shape<256, 1, 32, true, true>>(args, params, device);
}

}  // namespace weft::cuda
