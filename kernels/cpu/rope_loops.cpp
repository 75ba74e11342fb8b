#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

template <typename R>
void table_rows(const RopeTableArgs& args, int64_t begin, int64_t end) {
  int64_t half = args.rotary_dim / 2;
  for (int64_t row = begin; row < end; ++row) {
    R* cosines = static_cast<R*>(args.cos_sin) + row * args.rotary_dim;
    R* sines = cosines + half;
    for (int64_t i = 0; i < half; ++i) {
      double angle = args.positions[row] * args.inverse_frequency[i];
      cosines[i] = static_cast<R>(__builtin_cos(angle));
      sines[i] = static_cast<R>(__builtin_sin(angle));
    }
  }
}

/// `stride` 1 and `distance` rotary_dim/2 for half-split pairs, 2 and 1 for interleaved ones.
template <int64_t stride, typename T>
WEFT_INLINE void rotate_head(T* x, int64_t distance, int64_t half, const Real<T>* cosines, Real<T> direction) {
  const Real<T>* sines = cosines + half;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    Real<T> first = load(x[i * stride]);
    Real<T> second = load(x[i * stride + distance]);
    Real<T> sine = sines[i] * direction;
    x[i * stride] = round_to<T>(first * cosines[i] - second * sine);
    x[i * stride + distance] = round_to<T>(second * cosines[i] + first * sine);
  }
}

template <typename T>
void rotate_rows(const RopeArgs& args, int64_t begin, int64_t end) {
  int64_t half = args.rotary_dim / 2;
  Real<T> direction = args.inverse ? Real<T>(-1) : Real<T>(1);
  for (int64_t row = begin; row < end; ++row) {
    const Real<T>* cosines = static_cast<const Real<T>*>(args.cos_sin) + row * args.rotary_dim;
    for (int64_t head = 0; head < args.num_heads; ++head) {
      T* x = static_cast<T*>(args.x) + (row * args.num_heads + head) * args.head_dim;
      if (args.interleaved) {
        rotate_head<2>(x, 1, half, cosines, direction);
      } else {
        rotate_head<1>(x, half, half, cosines, direction);
      }
    }
  }
}

}  // namespace

void rope_table(const RopeTableArgs& args, int64_t begin, int64_t end) {
  if (args.dtype == DType::f64) {
    table_rows<double>(args, begin, end);
  } else {
    table_rows<float>(args, begin, end);
  }
}

void rope_rotate(const RopeArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { rotate_rows<T>(args, begin, end); });
}

}  // namespace weft::WEFT_ISA
