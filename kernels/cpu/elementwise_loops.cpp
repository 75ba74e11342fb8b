#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/random_blocks.h"

namespace weft::WEFT_ISA {
namespace {

template <typename X, typename Y>
void axpby_range(const AxpbyArgs& args, int64_t begin, int64_t end) {
  using R = typename WiderOf<Real<X>, Real<Y>>::type;
  const X* x = static_cast<const X*>(args.x);
  const Y* y_in = static_cast<const Y*>(args.y_in);
  Y* y = static_cast<Y*>(args.y);
  R a = static_cast<R>(args.a);
  R b = static_cast<R>(args.b);
  if (args.b == 0) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) y[i] = round_to<Y>(a * static_cast<R>(load(x[i])));
    return;
  }
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    y[i] = round_to<Y>(a * static_cast<R>(load(x[i])) + b * static_cast<R>(load(y_in[i])));
  }
}

template <typename T>
void soft_cap_range(const SoftCapArgs& args, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  Real<T> cap = args.cap;
  Real<T> inverse_cap = Real<T>(1) / cap;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = round_to<T>(cap * hyperbolic_tangent(load(x[i]) * inverse_cap));
}

template <typename T>
void soft_cap_backward_range(const SoftCapBackwardArgs& args, int64_t begin, int64_t end) {
  const T* y = static_cast<const T*>(args.y);
  const T* dy = static_cast<const T*>(args.dy);
  T* dx = static_cast<T*>(args.dx);
  Real<T> inverse_cap = Real<T>(1) / Real<T>(args.cap);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    Real<T> tangent = load(y[i]) * inverse_cap;
    dx[i] = round_to<T>(load(dy[i]) * (Real<T>(1) - tangent * tangent));
  }
}

/// The exponentials are computed twice rather than stored: y may be narrower than they are.
template <typename T>
void softmax_rows(const SoftmaxArgs& args, int64_t begin, int64_t end) {
  using R = Real<T>;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(args.x) + row * args.width;
    T* y = static_cast<T*>(args.y) + row * args.width;
    R maximum = -__builtin_inf();
#pragma omp simd reduction(max : maximum)
    for (int64_t i = 0; i < args.width; ++i) maximum = load(x[i]) > maximum ? load(x[i]) : maximum;
    R sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < args.width; ++i) sum += exponential(load(x[i]) - maximum);
    R inverse_sum = R(1) / sum;
#pragma omp simd
    for (int64_t i = 0; i < args.width; ++i) y[i] = round_to<T>(exponential(load(x[i]) - maximum) * inverse_sum);
  }
}

template <typename T>
void softmax_backward_rows(const SoftmaxBackwardArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* y = static_cast<const T*>(args.y) + row * args.width;
    const T* dy = static_cast<const T*>(args.dy) + row * args.width;
    T* dx = static_cast<T*>(args.dx) + row * args.width;
    Real<T> dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < args.width; ++i) dot += load(y[i]) * load(dy[i]);
#pragma omp simd
    for (int64_t i = 0; i < args.width; ++i) dx[i] = round_to<T>(load(y[i]) * (load(dy[i]) - dot));
  }
}

/// Philox blocks, of four numbers each, that are made at a time.
constexpr int64_t kRandomBlocks = 64;

template <typename T>
WEFT_INLINE void drop(const T* x, T* y, const uint32_t* bits, int64_t count, float probability) {
  Real<T> scale = Real<T>(1) / (Real<T>(1) - Real<T>(probability));
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    float uniform = static_cast<float>(static_cast<int32_t>(bits[i] >> 8)) * 0x1p-24f;
    T kept = round_to<T>(load(x[i]) * scale);
    y[i] = uniform >= probability ? kept : round_to<T>(Real<T>(0));
  }
}

template <typename T>
void dropout_rows(const DropoutArgs& args, int64_t begin, int64_t end) {
  uint32_t bits[4 * kRandomBlocks];
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(args.x) + row * args.width;
    T* y = static_cast<T*>(args.y) + row * args.width;
    uint64_t first = static_cast<uint64_t>((args.row_begin + row) * args.global_width + args.column_begin);
    for (int64_t done = 0; done < args.width;) {
      uint64_t index = first + static_cast<uint64_t>(done);
      int64_t skipped = static_cast<int64_t>(index & 3);
      int64_t count = smaller(args.width - done, 4 * kRandomBlocks - skipped);
      random_blocks(args.key, index >> 2, (skipped + count + 3) / 4, bits);
      drop(x + done, y + done, bits + skipped, count, args.probability);
      done += count;
    }
  }
}

}  // namespace

void axpby(const AxpbyArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.x_dtype, [&]<typename X>(TypeTag<X>) {
    for_dtype(args.y_dtype, [&]<typename Y>(TypeTag<Y>) { axpby_range<X, Y>(args, begin, end); });
  });
}

void soft_cap(const SoftCapArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { soft_cap_range<T>(args, begin, end); });
}

void soft_cap_backward(const SoftCapBackwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { soft_cap_backward_range<T>(args, begin, end); });
}

void softmax(const SoftmaxArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { softmax_rows<T>(args, begin, end); });
}

void softmax_backward(const SoftmaxBackwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { softmax_backward_rows<T>(args, begin, end); });
}

void dropout(const DropoutArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { dropout_rows<T>(args, begin, end); });
}

}  // namespace weft::WEFT_ISA
