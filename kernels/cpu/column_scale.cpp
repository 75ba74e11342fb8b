#include <type_traits>

#include "core/dtype.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/elementwise.h"

namespace weft {
namespace {

template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
void scale_rows(const void* x, const void* factors, void* y, int64_t width, int64_t begin, int64_t end) {
  const T* from = static_cast<const T*>(x);
  const T* factor = static_cast<const T*>(factors);
  T* to = static_cast<T*>(y);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      to[r * width + c] = static_cast<T>(static_cast<Sum<T>>(from[r * width + c]) * static_cast<Sum<T>>(factor[c]));
    }
  }
}

/// Columns [begin, end), so that the sum over rows is the same at every number of threads.
template <typename T>
void sum_columns(const ColumnScaleBackwardArgs& args, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(args.x);
  const T* dy = static_cast<const T*>(args.dy);
  auto* sums = static_cast<Sum<T>*>(args.dfactors);
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t c = begin; c < end; ++c) {
      sums[c] += static_cast<Sum<T>>(x[r * args.width + c]) * static_cast<Sum<T>>(dy[r * args.width + c]);
    }
  }
}

template <typename T>
void run(const ColumnScaleArgs& args, const Stream& stream) {
  parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
    scale_rows<T>(args.x, args.factors, args.y, args.width, begin, end);
  });
}

template <typename T>
void run_backward(const ColumnScaleBackwardArgs& args, const Stream& stream) {
  if (args.dx != nullptr) {
    parallel_for(stream.num_threads, args.rows, row_grain(args.width), [&](int64_t begin, int64_t end) {
      scale_rows<T>(args.dy, args.factors, args.dx, args.width, begin, end);
    });
  }
  if (args.dfactors == nullptr) return;
  parallel_for(stream.num_threads, args.width, row_grain(args.rows), [&](int64_t begin, int64_t end) {
    sum_columns<T>(args, begin, end);
  });
}

template <typename Args, typename Run>
void for_dtype(const Args& args, const char* kernel, const Run& body) {
  check_loop_dtype(args.dtype, kernel);
  if (args.dtype == DType::f64) return body(double{});
  if (args.dtype == DType::f32) return body(float{});
  body(bfloat16{});
}

}  // namespace

void cpu_column_scale(const ColumnScaleArgs& args, const Stream& stream) {
  for_dtype(args, "column_scale", [&](auto type) { run<decltype(type)>(args, stream); });
}

void cpu_column_scale_backward(const ColumnScaleBackwardArgs& args, const Stream& stream) {
  for_dtype(args, "column_scale_backward", [&](auto type) { run_backward<decltype(type)>(args, stream); });
}

}  // namespace weft
