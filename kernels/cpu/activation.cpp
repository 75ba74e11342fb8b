#include "kernels/activation.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

// An exponential costs several times what a streamed element does.
constexpr int64_t kGrain = kMinElementsPerThread / 4;

void forward(const ActivationForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "activation");
  parallel_for(stream.num_threads, args.count, kGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().activation_forward(args, begin, end);
  });
}

void backward(const ActivationBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "activation_backward");
  parallel_for(stream.num_threads, args.count, kGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().activation_backward(args, begin, end);
  });
}

void gated_forward(const GatedActivationForwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "gated_activation");
  parallel_for(stream.num_threads, args.count, kGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().gated_forward(args, begin, end);
  });
}

void gated_backward(const GatedActivationBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "gated_activation_backward");
  parallel_for(stream.num_threads, args.count, kGrain, [&](int64_t begin, int64_t end) {
    cpu_loops().gated_backward(args, begin, end);
  });
}

}  // namespace

ActivationKernels cpu_activation_kernels() {
  return {.forward = forward, .backward = backward, .gated_forward = gated_forward, .gated_backward = gated_backward};
}

}  // namespace weft
