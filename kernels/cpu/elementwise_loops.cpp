#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"

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

/// One output of Philox4x32-10 for `index`, as RandomKey::bits; forced inline here so that it becomes vector code.
WEFT_INLINE uint32_t random_bits(uint64_t index, uint32_t seed_low, uint32_t seed_high, uint32_t step, uint32_t site) {
  uint64_t block = index >> 2;
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = step, c3 = site;
  uint32_t k0 = seed_low, k1 = seed_high;
  for (int round = 0; round < 10; ++round) {
    uint64_t product0 = uint64_t{0xD2511F53u} * c0;
    uint64_t product1 = uint64_t{0xCD9E8D57u} * c2;
    uint32_t n0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    uint32_t n2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(product1);
    c3 = static_cast<uint32_t>(product0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  uint32_t low = (index & 1) != 0 ? c1 : c0;
  uint32_t high = (index & 1) != 0 ? c3 : c2;
  return (index & 2) != 0 ? high : low;
}

template <typename T>
void dropout_rows(const DropoutArgs& args, int64_t begin, int64_t end) {
  Real<T> scale = Real<T>(1) / (Real<T>(1) - Real<T>(args.probability));
  uint32_t seed_low = static_cast<uint32_t>(args.key.seed), seed_high = static_cast<uint32_t>(args.key.seed >> 32);
  uint32_t step = args.key.step, site = args.key.site;
  float probability = args.probability;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(args.x) + row * args.width;
    T* y = static_cast<T*>(args.y) + row * args.width;
    uint64_t first = static_cast<uint64_t>((args.row_begin + row) * args.global_width + args.column_begin);
#pragma omp simd
    for (int64_t i = 0; i < args.width; ++i) {
      uint32_t bits = random_bits(first + static_cast<uint64_t>(i), seed_low, seed_high, step, site);
      float uniform = static_cast<float>(static_cast<int32_t>(bits >> 8)) * 0x1p-24f;
      T kept = round_to<T>(load(x[i]) * scale);
      y[i] = uniform >= probability ? kept : round_to<T>(Real<T>(0));
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
