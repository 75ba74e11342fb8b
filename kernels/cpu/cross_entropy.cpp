#include "kernels/cross_entropy.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

void check_dtype(DType dtype, const char* kernel) {
  if (dtype != DType::f32 && dtype != DType::f64) {
    fail(ExitCode::failure, "{} has no cpu kernel for {}", kernel, dtype_name(dtype));
  }
}

void row_maximum(const RowMaximumArgs& args, const Stream& stream) {
  check_dtype(args.dtype, "row_maximum");
  parallel_for(stream.num_threads, args.rows, row_grain(args.columns), [&](int64_t begin, int64_t end) {
    cpu_loops().row_maximum(args, begin, end);
  });
}

void row_sum_exp(const RowSumExpArgs& args, const Stream& stream) {
  check_dtype(args.dtype, "row_sum_exp");
  parallel_for(stream.num_threads, args.rows, row_grain(args.columns), [&](int64_t begin, int64_t end) {
    cpu_loops().row_sum_exp(args, begin, end);
  });
}

void backward(const CrossEntropyBackwardArgs& args, const Stream& stream) {
  check_dtype(args.dtype, "cross_entropy_backward");
  parallel_for(stream.num_threads, args.rows, row_grain(args.columns), [&](int64_t begin, int64_t end) {
    cpu_loops().cross_entropy_backward(args, begin, end);
  });
}

}  // namespace

CrossEntropyKernels cpu_cross_entropy_kernels() {
  return {.row_maximum = row_maximum, .row_sum_exp = row_sum_exp, .backward = backward};
}

}  // namespace weft
