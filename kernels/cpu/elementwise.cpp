#include "kernels/elementwise.h"

#include <algorithm>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

// An exponential or ten rounds of Philox cost several times what a streamed element does.
constexpr int64_t kCostOfFunction = 4;
/// Rows and columns whose cache lines are in use at a time.
constexpr int64_t kTransposeBlock = 32;

void axpby(const AxpbyArgs& args, const Stream& stream) {
  check_loop_dtype(args.x_dtype, "axpby");
  check_loop_dtype(args.y_dtype, "axpby");
  parallel_for(stream.num_threads, args.count, kMinElementsPerThread, [&](int64_t begin, int64_t end) {
    cpu_loops().axpby(args, begin, end);
  });
}

void soft_cap(const SoftCapArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "soft_cap");
  parallel_for(
      stream.num_threads, args.count, kMinElementsPerThread / kCostOfFunction, [&](int64_t begin, int64_t end) {
        cpu_loops().soft_cap(args, begin, end);
      });
}

void soft_cap_backward(const SoftCapBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "soft_cap_backward");
  parallel_for(stream.num_threads, args.count, kMinElementsPerThread, [&](int64_t begin, int64_t end) {
    cpu_loops().soft_cap_backward(args, begin, end);
  });
}

void softmax(const SoftmaxArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "softmax");
  parallel_for(stream.num_threads, args.rows, row_grain(args.width * kCostOfFunction), [&](int64_t begin, int64_t end) {
    cpu_loops().softmax(args, begin, end);
  });
}

void softmax_backward(const SoftmaxBackwardArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "softmax_backward");
  parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
    cpu_loops().softmax_backward(args, begin, end);
  });
}

void dropout(const DropoutArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "dropout");
  parallel_for(stream.num_threads, args.rows, row_grain(args.width * kCostOfFunction), [&](int64_t begin, int64_t end) {
    cpu_loops().dropout(args, begin, end);
  });
}

template <typename Bits>
void transpose_columns(const TransposeArgs& args, int64_t begin, int64_t end) {
  const auto* x = static_cast<const Bits*>(args.x);
  auto* y = static_cast<Bits*>(args.y);
  for (int64_t row = 0; row < args.rows; row += kTransposeBlock) {
    int64_t row_end = std::min(args.rows, row + kTransposeBlock);
    for (int64_t column = begin; column < end; ++column) {
      for (int64_t r = row; r < row_end; ++r) y[column * args.rows + r] = x[r * args.columns + column];
    }
  }
}

void transpose(const TransposeArgs& args, const Stream& stream) {
  check_loop_dtype(args.dtype, "transpose");
  int threads = args.rows * args.columns < kMinElementsPerThread ? 1 : stream.num_threads;
  parallel_for(threads, args.columns, kTransposeBlock, [&](int64_t begin, int64_t end) {
    size_t element_bytes = dtype_bytes(args.dtype);
    if (element_bytes == 2) return transpose_columns<uint16_t>(args, begin, end);
    if (element_bytes == 4) return transpose_columns<uint32_t>(args, begin, end);
    transpose_columns<uint64_t>(args, begin, end);
  });
}

}  // namespace

ElementwiseKernels cpu_elementwise_kernels() {
  return {.axpby = axpby,
          .soft_cap = soft_cap,
          .soft_cap_backward = soft_cap_backward,
          .softmax = softmax,
          .softmax_backward = softmax_backward,
          .dropout = dropout,
          .transpose = transpose,
          .column_scale = cpu_column_scale,
          .column_scale_backward = cpu_column_scale_backward};
}

}  // namespace weft
