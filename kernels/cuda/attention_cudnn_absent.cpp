// CudnnAttention for a build without cuDNN's headers.
#include "kernels/cuda/attention_cudnn.h"

namespace weft::cuda {

class CudnnAttention::Implementation {};

CudnnAttention::CudnnAttention() = default;

bool CudnnAttention::is_available() const {
  return false;
}

bool CudnnAttention::forward(const AttentionForwardArgs& /*args*/, CudaDevice& /*device*/) {
  return false;
}

bool CudnnAttention::backward(const AttentionBackwardArgs& /*args*/,
                              bool /*is_deterministic*/,
                              CudaDevice& /*device*/) {
  return false;
}

std::string CudnnAttention::reason() const {
  return "this build has no cuDNN, whose headers were not found (docs/gpu.md)";
}

}  // namespace weft::cuda
