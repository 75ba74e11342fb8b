#include "kernels/cpu/loop_tables.h"
#include "kernels/cpu/simd.h"

namespace weft::WEFT_ISA {
namespace {

template <typename R>
struct RowStatistics {
  R mean, inverse;
};

template <typename T>
WEFT_INLINE RowStatistics<Real<T>> statistics_of(const T* x, int64_t width, double eps, bool subtract_mean) {
  using R = Real<T>;
  R mean = 0;
  if (subtract_mean) {
    mean = sum_of(x, width, [](auto value) WEFT_INLINE_LAMBDA { return value; }) / static_cast<R>(width);
  }
  R squares = sum_of(x, width, [mean](auto value) WEFT_INLINE_LAMBDA { return (value - mean) * (value - mean); });
  return {mean, R(1) / square_root(squares / static_cast<R>(width) + static_cast<R>(eps))};
}

/// A vector of parameters that may not be there. A type and not a null pointer: loops that ask the pointer in each
/// element are not vectorised.
template <typename T>
struct Given {
  const T* values;
  WEFT_INLINE Real<T> operator[](int64_t i) const { return load(values[i]); }
};
template <typename T, int value>
struct Constant {
  WEFT_INLINE Real<T> operator[](int64_t) const { return Real<T>(value); }
};

/// Calls body with the vector, or with `missing` in all its places.
template <int missing, typename T, typename Body>
WEFT_INLINE void with_vector(const T* vector, const Body& body) {
  if (vector != nullptr) {
    body(Given<T>{vector});
  } else {
    body(Constant<T, missing>{});
  }
}

template <typename T>
WEFT_INLINE void norm_row(
    const T* input, const T* weight, const T* bias, T* y, int64_t width, RowStatistics<Real<T>> row) {
  with_vector<1>(weight, [&](auto scale) WEFT_INLINE_LAMBDA {
    with_vector<0>(bias, [&](auto shift) WEFT_INLINE_LAMBDA {
      round_each(y, 0, width, [&](int64_t i) WEFT_INLINE_LAMBDA {
        return (load(input[i]) - row.mean) * row.inverse * scale[i] + shift[i];
      });
    });
  });
}

template <typename T>
void forward_rows(const LayerNormForwardArgs& args, int64_t begin, int64_t end) {
  int64_t width = args.width;
  for (int64_t row = begin; row < end; ++row) {
    int64_t at = row * width;
    const T* input = static_cast<const T*>(args.x) + at;
    T* y = static_cast<T*>(args.y) + at;
    if (args.residual != nullptr) {
      const T* residual = static_cast<const T*>(args.residual) + at;
      // Where nobody wants the sum, the result's own row holds it meanwhile.
      T* sum = args.sum != nullptr ? static_cast<T*>(args.sum) + at : y;
      round_each(sum, 0, width, [&](int64_t i) WEFT_INLINE_LAMBDA { return load(input[i]) + load(residual[i]); });
      input = sum;
    }
    int64_t group = args.groups == nullptr ? 0 : args.groups[row] * width;
    const T* weight = args.weight == nullptr ? nullptr : static_cast<const T*>(args.weight) + group;
    const T* bias = args.bias == nullptr ? nullptr : static_cast<const T*>(args.bias) + group;
    norm_row(input, weight, bias, y, width, statistics_of(input, width, args.eps, args.subtract_mean));
  }
}

/// With g = dy·w and x̂ the normed row: dx = inverse·(g − mean(g) − x̂·mean(g·x̂)); without mean(g) when no mean was
/// taken.
template <typename T, typename Weight>
WEFT_INLINE void backward_row(const LayerNormBackwardArgs& args,
                              int64_t index,
                              const Weight& weight,
                              RowStatistics<Real<T>> row) {
  using R = Real<T>;
  int64_t width = args.width;
  const T* input = static_cast<const T*>(args.input) + index * width;
  const T* dy = static_cast<const T*>(args.dy) + index * width;
  T* dinput = static_cast<T*>(args.dinput) + index * width;
  R sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t i = 0; i < width; ++i) {
    R g = load(dy[i]) * weight[i];
    sum += g;
    dot += g * (load(input[i]) - row.mean) * row.inverse;
  }
  R mean = args.subtract_mean ? sum / static_cast<R>(width) : R(0);
  R projection = dot / static_cast<R>(width);
  round_each(dinput, 0, width, [&](int64_t i) WEFT_INLINE_LAMBDA {
    R g = load(dy[i]) * weight[i];
    R normed = (load(input[i]) - row.mean) * row.inverse;
    return row.inverse * (g - mean - normed * projection);
  });
}

template <typename T>
void backward_input_rows(const LayerNormBackwardArgs& args, void* statistics, int64_t begin, int64_t end) {
  auto* kept = static_cast<RowStatistics<Real<T>>*>(statistics);
  for (int64_t row = begin; row < end; ++row) {
    const T* input = static_cast<const T*>(args.input) + row * args.width;
    kept[row] = statistics_of(input, args.width, args.eps, args.subtract_mean);
    if (args.dinput == nullptr) continue;
    int64_t group = args.groups == nullptr ? 0 : args.groups[row] * args.width;
    const T* weight = args.weight == nullptr ? nullptr : static_cast<const T*>(args.weight) + group;
    with_vector<1>(weight, [&](auto scale) WEFT_INLINE_LAMBDA { backward_row<T>(args, row, scale, kept[row]); });
  }
}

template <typename T>
void backward_weight_columns(const LayerNormBackwardArgs& args, const void* statistics, int64_t begin, int64_t end) {
  using R = Real<T>;
  const auto* kept = static_cast<const RowStatistics<R>*>(statistics);
  for (int64_t row = 0; row < args.rows; ++row) {
    const T* input = static_cast<const T*>(args.input) + row * args.width;
    const T* dy = static_cast<const T*>(args.dy) + row * args.width;
    int64_t group = args.groups == nullptr ? 0 : args.groups[row] * args.width;
    R mean = kept[row].mean;
    R inverse = kept[row].inverse;
    if (args.dweight != nullptr) {
      R* dweight = static_cast<R*>(args.dweight) + group;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dweight[i] += load(dy[i]) * (load(input[i]) - mean) * inverse;
    }
    if (args.dbias != nullptr) {
      R* dbias = static_cast<R*>(args.dbias) + group;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dbias[i] += load(dy[i]);
    }
  }
}

}  // namespace

void layer_norm_forward(const LayerNormForwardArgs& args, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { forward_rows<T>(args, begin, end); });
}

void layer_norm_backward_input(const LayerNormBackwardArgs& args, void* statistics, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { backward_input_rows<T>(args, statistics, begin, end); });
}

void layer_norm_backward_weight(const LayerNormBackwardArgs& args, const void* statistics, int64_t begin, int64_t end) {
  for_dtype(args.dtype, [&]<typename T>(TypeTag<T>) { backward_weight_columns<T>(args, statistics, begin, end); });
}

}  // namespace weft::WEFT_ISA
