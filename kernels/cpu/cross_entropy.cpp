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

void row_statistics(const RowStatisticsArgs& args, const Stream& stream) {
  check_dtype(args.dtype, "row_statistics");
  parallel_for(stream.num_threads, args.rows, row_grain(args.columns), [&](int64_t begin, int64_t end) {
    cpu_loops().row_statistics(args, begin, end);
  });
}

void backward(const CrossEntropyBackwardArgs& args, const Stream& stream) {
  check_dtype(args.dtype, "cross_entropy_backward");
  WEFT_ASSERT(args.dlogits_dtype == args.dtype || args.dlogits_dtype == DType::bf16);
  parallel_for(stream.num_threads, args.rows, row_grain(args.columns), [&](int64_t begin, int64_t end) {
    cpu_loops().cross_entropy_backward(args, begin, end);
  });
}

}  // namespace

CrossEntropyKernels cpu_cross_entropy_kernels() {
  return {.row_statistics = row_statistics, .backward = backward};
}

}  // namespace weft
