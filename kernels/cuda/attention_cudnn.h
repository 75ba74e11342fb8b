// Attention by cuDNN, where the build found its headers and the machine has the library: what our own kernels are
// measured against, and a path that users may choose.
#pragma once

#include <string>

#include "kernels/attention.h"

namespace weft::cuda {

class CudaDevice;

enum class AttentionChoice : uint8_t { own, cudnn, cudnn_deterministic };

/// What the environment variable WEFT_ATTENTION says; own where it is not set. Throws Error(usage) for another word.
AttentionChoice attention_choice();

/// cuDNN on one GPU. Plans are made for each shape at its first use, which takes up to a second, and kept. Calls of
/// several threads follow one another.
class CudnnAttention {
 public:
  CudnnAttention();
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  /// Whether there is a cuDNN to be used; else reason() says why not.
  bool is_available() const;

  /// Queues the call on the device's stream. False, with nothing done: not a call for cuDNN; reason() says why.
  bool forward(const AttentionForwardArgs& args, CudaDevice& device);
  /// Deterministic: the same bits again, for more time and more memory, which grows with queries times keys.
  bool backward(const AttentionBackwardArgs& args, bool is_deterministic, CudaDevice& device);

  std::string reason() const;

 private:
  class Implementation;
  Implementation* implementation_ = nullptr;  // never freed, as cudnn_attention() says
};

/// That of the device's GPU, started at its first use. Kept until the process ends, and not taken down then: a library
/// may have taken itself down before.
CudnnAttention& cudnn_attention(CudaDevice& device);

/// Those calls by cuDNN, if WEFT_ATTENTION chooses it; false else, and while a step is captured as a graph.
/// Throws Error(failure) when it was chosen and there is none.
bool attention_forward_chosen(const AttentionForwardArgs& args, CudaDevice& device);
bool attention_backward_chosen(const AttentionBackwardArgs& args, CudaDevice& device);

}  // namespace weft::cuda
