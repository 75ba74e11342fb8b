#include "kernels/embedding.h"

#include <cstring>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

constexpr int64_t kColumnGrain = 64;

void forward(const EmbeddingForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "embedding");
  parallel_for(stream.num_threads, args.num_ids, row_grain(args.width), [&](int64_t begin, int64_t end) {
    cpu_loops().embedding_forward(args, begin, end);
  });
}

/// Rows may be written by several ids: threads share out the columns, so that sums have one order.
void backward(const EmbeddingBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "embedding_backward");
  int threads = args.num_ids * args.width < kMinElementsPerThread ? 1 : stream.num_threads;
  parallel_for(threads, args.width, kColumnGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().embedding_backward(args, begin, end);
  });
}

void gather_rows(const GatherRowsArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "gather_rows");
  if (args.scatter_add) {
    int threads = args.num_indices * args.width < kMinElementsPerThread ? 1 : stream.num_threads;
    parallel_for(threads, args.width, kColumnGrain, [&](int64_t begin, int64_t end) {
      cpu_loops().scatter_add_rows(args, begin, end);
    });
    return;
  }
  size_t row_bytes = static_cast<size_t>(args.width) * dtype_bytes(args.dtype);
  const std::byte* x = static_cast<const std::byte*>(args.x);
  std::byte* y = static_cast<std::byte*>(args.y);
  parallel_for(stream.num_threads, args.num_indices, row_grain(args.width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(
          y + static_cast<size_t>(row) * row_bytes, x + static_cast<size_t>(args.indices[row]) * row_bytes, row_bytes);
    }
  });
}

}  // namespace

EmbeddingKernels cpu_embedding_kernels() {
  return {.forward = forward, .backward = backward, .gather_rows = gather_rows};
}

}  // namespace weft
