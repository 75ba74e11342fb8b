#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda_devices.h"
#include "kernels/kernels.h"

namespace weft {

const KernelTable& cuda_kernels() {
  static const KernelTable table = {.linear = cuda_linear_kernels(),
                                    .rms_norm = cuda_rms_norm_kernels(),
                                    .layer_norm = cuda_layer_norm_kernels(),
                                    .rope = cuda_rope_kernels(),
                                    .attention = cuda_attention_kernels(),
                                    .relative_attention = cuda_relative_attention_kernels(),
                                    .wkv = cuda_wkv_kernels(),
                                    .token_shift = cuda_token_shift_kernels(),
                                    .activation = cuda_activation_kernels(),
                                    .embedding = cuda_embedding_kernels(),
                                    .elementwise = cuda_elementwise_kernels(),
                                    .cross_entropy = cuda_cross_entropy_kernels(),
                                    .optimizer = cuda_optimizer_kernels(),
                                    .sampling = cuda_sampling_kernels()};
  return table;
}

}  // namespace weft
