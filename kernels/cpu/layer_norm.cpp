#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/norm.h"

namespace weft {
namespace {

constexpr int64_t kColumnGrain = 64;

void forward(const LayerNormForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "layer_norm");
  parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
    cpu_loops().layer_norm_forward(args, begin, end);
  });
}

void backward(const LayerNormBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "layer_norm_backward");
  Scratch statistics(stream, static_cast<size_t>(args.rows) * 2 * sizeof(double) + 1);
  parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
    cpu_loops().layer_norm_backward_input(args, statistics.data(), begin, end);
  });
  if (args.dweight == nullptr && args.dbias == nullptr) return;
  int threads = args.rows * args.width < kMinElementsPerThread ? 1 : stream.num_threads;
  parallel_for(threads, args.width, kColumnGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().layer_norm_backward_weight(args, statistics.data(), begin, end);
  });
}

}  // namespace

LayerNormKernels cpu_layer_norm_kernels() {
  return {.forward = forward, .backward = backward};
}

}  // namespace weft
