#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/simd.h"

namespace weft::WEFT_ISA {
namespace {

template <typename T>
WEFT_INLINE Real<T> sum_of_squares(const T* x, int64_t width) {
  return sum_of(x, width, [](auto value) WEFT_INLINE_LAMBDA { return value * value; });
}

template <typename T>
WEFT_INLINE void add_residual(const T* x, const T* residual, T* sum, int64_t width) {
  round_each(sum, 0, width, [&](int64_t i) WEFT_INLINE_LAMBDA { return load(x[i]) + load(residual[i]); });
}

template <typename T>
WEFT_INLINE Real<T> inverse_rms(Real<T> squares, int64_t width, double eps) {
  return Real<T>(1) / square_root(squares / static_cast<Real<T>>(width) + static_cast<Real<T>>(eps));
}

template <typename T>
WEFT_INLINE void scale_row(const RmsNormForwardArgs& args, const T* input, T* y, Real<T> inv_rms) {
  const T* weight = static_cast<const T*>(args.weight);
  Real<T> offset = args.weight_offset;
  if (args.round_before_weight) {
    round_each(y, 0, args.width, [&](int64_t i) WEFT_INLINE_LAMBDA {
      return load(round_to<T>(load(input[i]) * inv_rms)) * (offset + load(weight[i]));
    });
  } else {
    round_each(y, 0, args.width, [&](int64_t i) WEFT_INLINE_LAMBDA {
      return load(input[i]) * inv_rms * (offset + load(weight[i]));
    });
  }
}

template <typename T>
void forward_rows(const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    int64_t at = row * args.width;
    const T* input = static_cast<const T*>(args.x) + at;
    if (args.residual != nullptr) {
      T* sum = static_cast<T*>(args.sum) + at;
      add_residual(input, static_cast<const T*>(args.residual) + at, sum, args.width);
      input = sum;
    }
    Real<T> inv_rms = inverse_rms<T>(sum_of_squares(input, args.width), args.width, args.eps);
    if (args.inv_rms != nullptr) args.inv_rms[row] = static_cast<float>(inv_rms);
    scale_row(args, input, static_cast<T*>(args.y) + at, inv_rms);
  }
}

/// With g = dy·w and x̂ = x·inv_rms: dx = inv_rms·(g − x̂·mean(g·x̂)).
template <typename T>
WEFT_INLINE void backward_row(const RmsNormBackwardArgs& args, int64_t row, Real<T> inv_rms) {
  using R = Real<T>;
  int64_t at = row * args.width;
  const T* input = static_cast<const T*>(args.input) + at;
  const T* dy = static_cast<const T*>(args.dy) + at;
  const T* weight = static_cast<const T*>(args.weight);
  const T* dsum = args.dsum == nullptr ? nullptr : static_cast<const T*>(args.dsum) + at;
  T* dinput = static_cast<T*>(args.dinput) + at;
  R offset = args.weight_offset;
  R dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < args.width; ++i) dot += load(dy[i]) * (offset + load(weight[i])) * load(input[i]);
  R projection = dot * inv_rms * inv_rms / static_cast<R>(args.width);
  bool accumulate = args.accumulate_input;
  round_each(dinput, 0, args.width, [&](int64_t i) WEFT_INLINE_LAMBDA {
    R gradient = inv_rms * (load(dy[i]) * (offset + load(weight[i])) - load(input[i]) * projection);
    if (dsum != nullptr) gradient += load(dsum[i]);
    if (accumulate) gradient += load(dinput[i]);
    return gradient;
  });
}

/// Without dy only dsum flows on.
template <typename T>
WEFT_INLINE void pass_row(const RmsNormBackwardArgs& args, int64_t row) {
  using R = Real<T>;
  const T* dsum = args.dsum == nullptr ? nullptr : static_cast<const T*>(args.dsum) + row * args.width;
  T* dinput = static_cast<T*>(args.dinput) + row * args.width;
  bool accumulate = args.accumulate_input;
#pragma omp simd
  for (int64_t i = 0; i < args.width; ++i) {
    R gradient = 0;
    if (dsum != nullptr) gradient += load(dsum[i]);
    if (accumulate) gradient += load(dinput[i]);
    dinput[i] = round_to<T>(gradient);
  }
}

template <typename T>
void backward_input_rows(const RmsNormBackwardArgs& args, void* inv_rms, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.dy == nullptr) {
      if (args.dinput != nullptr) pass_row<T>(args, row);
      continue;
    }
    const T* input = static_cast<const T*>(args.input) + row * args.width;
    Real<T> inverse = inverse_rms<T>(sum_of_squares(input, args.width), args.width, args.eps);
    static_cast<Real<T>*>(inv_rms)[row] = inverse;
    if (args.dinput != nullptr) backward_row<T>(args, row, inverse);
  }
}

template <typename T>
void backward_weight_columns(const RmsNormBackwardArgs& args, const void* inv_rms, int64_t begin, int64_t end) {
  using R = Real<T>;
  R* dweight = static_cast<R*>(args.dweight);
  if (!args.accumulate_weight) {
    for (int64_t i = begin; i < end; ++i) dweight[i] = 0;
  }
  for (int64_t row = 0; args.dy != nullptr && row < args.rows; ++row) {
    const T* input = static_cast<const T*>(args.input) + row * args.width;
    const T* dy = static_cast<const T*>(args.dy) + row * args.width;
    R inverse = static_cast<const R*>(inv_rms)[row];
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) dweight[i] += load(dy[i]) * load(input[i]) * inverse;
  }
}

}  // namespace

void rms_norm_forward(const RmsNormForwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { forward_rows<T>(args, begin, end); });
}

void rms_norm_backward_input(const RmsNormBackwardArgs& args, void* inv_rms, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { backward_input_rows<T>(args, inv_rms, begin, end); });
}

void rms_norm_backward_weight(const RmsNormBackwardArgs& args, const void* inv_rms, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { backward_weight_columns<T>(args, inv_rms, begin, end); });
}

}  // namespace weft::WEFT_ISA
