#include "kernels/norm.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

constexpr int64_t kColumnGrain = 64;

void forward(const RmsNormForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "rms_norm");
  parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
    cpu_loops().rms_norm_forward(args, begin, end);
  });
}

void backward(const RmsNormBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "rms_norm_backward");
  Scratch inv_rms(stream, static_cast<size_t>(args.rows) * sizeof(double) + 1);
  parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
    cpu_loops().rms_norm_backward_input(args, inv_rms.data(), begin, end);
  });
  if (args.dweight == nullptr) return;
  int threads = args.rows * args.width < kMinElementsPerThread ? 1 : stream.num_threads;
  parallel_for(threads, args.width, kColumnGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().rms_norm_backward_weight(args, inv_rms.data(), begin, end);
  });
}

}  // namespace

RmsNormKernels cpu_rms_norm_kernels() {
  return {.forward = forward, .backward = backward};
}

}  // namespace weft
