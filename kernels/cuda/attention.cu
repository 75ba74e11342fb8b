#include "kernels/attention.h"

#include <vector>

#include "kernels/cuda/attention_cache.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cuda_kernels.h"

namespace weft {
namespace {

/// Sequences that decode and those with many queries each go their own way, also where a call has both. Where weights
/// are dropped, in training, all are as those with many.
void forward(const AttentionForwardArgs& args, const Stream& stream) {
  cuda::CudaDevice& device = cuda::device_of(stream);
  cuda::require(args.num_kv_heads > 0 && args.num_heads % args.num_kv_heads == 0,
                "attention",
                "query heads that are a multiple of the key heads");
  std::vector<AttentionSequence> few, many;
  for (const AttentionSequence& sequence : args.sequences) {
    if (sequence.query_count <= 0) continue;
    bool is_few = sequence.query_count <= cuda::kMaxSplitQueries && !args.dropout.drops();
    (is_few ? few : many).push_back(sequence);
  }
  if (few.empty() && cuda::attention_forward_chosen(args, device)) return;
  AttentionForwardArgs part = args;
  part.sequences = many;
  if (!many.empty()) cuda::attention_forward_tiles(part, device);
  part.sequences = few;
  if (!few.empty()) cuda::attention_forward_split(part, device);
}

void backward(const AttentionBackwardArgs& args, const Stream& stream) {
  cuda::CudaDevice& device = cuda::device_of(stream);
  if (!cuda::attention_backward_chosen(args, device)) cuda::attention_backward(args, device);
}

void cache_write(std::span<const CacheWriteArgs> writes, const Stream& stream) {
  cuda::cache_write(writes, cuda::device_of(stream));
}

void bias_expand(const BiasExpandArgs& args, const Stream& stream) {
  cuda::bias_expand(args, cuda::device_of(stream));
}

void bias_reduce(const BiasReduceArgs& args, const Stream& stream) {
  cuda::bias_reduce(args, cuda::device_of(stream));
}

}  // namespace

AttentionKernels cuda_attention_kernels() {
  return {.forward = forward,
          .backward = backward,
          .cache_write = cache_write,
          .bias_expand = bias_expand,
          .bias_reduce = bias_reduce};
}

}  // namespace weft
