// Matrix products as plain loops, for double precision (gradient checks) and for builds without OpenMP, where oneDNN is
// left out.
#pragma once

#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "kernels/cpu/parallel.h"
#include "kernels/linear.h"

namespace weft {

/// What products of T are summed in.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
Accumulator<T> dot_product(const T* a, const T* b, int64_t count) {
  Accumulator<T> sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    sum += static_cast<Accumulator<T>>(a[i]) * static_cast<Accumulator<T>>(b[i]);
  }
  return sum;
}

/// y = x · wᵀ + bias for one row-major weight.
template <typename T>
void plain_linear_forward(const LinearForwardArgs& args, const LinearWeight& weight, int num_threads) {
  const T* x = static_cast<const T*>(args.x);
  const T* w = static_cast<const T*>(weight.weight);
  const T* bias = static_cast<const T*>(weight.bias);
  T* y = static_cast<T*>(weight.y);
  int64_t depth = args.in_features;
  parallel_for(num_threads, weight.out_features, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t m = 0; m < args.rows; ++m) {
        Accumulator<T> sum = dot_product(x + m * depth, w + n * depth, depth);
        if (bias != nullptr) sum += static_cast<Accumulator<T>>(bias[n]);
        y[m * weight.out_features + n] = static_cast<T>(sum);
      }
    }
  });
}

template <typename T>
void plain_linear_backward_input(const LinearBackwardInputArgs& args, int num_threads) {
  const T* dy = static_cast<const T*>(args.dy);
  const T* w = static_cast<const T*>(args.weight);
  T* dx = static_cast<T*>(args.dx);
  parallel_for(num_threads, args.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<Accumulator<T>> sums(static_cast<size_t>(args.in_features));
    for (int64_t m = begin; m < end; ++m) {
      T* dx_row = dx + m * args.in_features;
      for (int64_t k = 0; k < args.in_features; ++k) {
        sums[k] = args.accumulate ? static_cast<Accumulator<T>>(dx_row[k]) : Accumulator<T>{0};
      }
      for (int64_t n = 0; n < args.out_features; ++n) {
        auto scale = static_cast<Accumulator<T>>(dy[m * args.out_features + n]);
        const T* w_row = w + n * args.in_features;
        for (int64_t k = 0; k < args.in_features; ++k) sums[k] += scale * static_cast<Accumulator<T>>(w_row[k]);
      }
      for (int64_t k = 0; k < args.in_features; ++k) dx_row[k] = static_cast<T>(sums[k]);
    }
  });
}

template <typename T>
void plain_linear_backward_weight(const LinearBackwardWeightArgs& args, int num_threads) {
  const T* dy = static_cast<const T*>(args.dy);
  const T* x = static_cast<const T*>(args.x);
  auto* dw = static_cast<Accumulator<T>*>(args.dw);
  parallel_for(num_threads, args.out_features, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      Accumulator<T>* dw_row = dw + n * args.in_features;
      if (!args.accumulate_weight) std::fill(dw_row, dw_row + args.in_features, Accumulator<T>{0});
      for (int64_t m = 0; m < args.rows; ++m) {
        auto scale = static_cast<Accumulator<T>>(dy[m * args.out_features + n]);
        const T* x_row = x + m * args.in_features;
        for (int64_t k = 0; k < args.in_features; ++k) dw_row[k] += scale * static_cast<Accumulator<T>>(x_row[k]);
      }
    }
  });
}

/// dbias = column sums of dy, row after row, so that the sum is the same for any number of threads.
template <typename T>
void plain_linear_backward_bias(const LinearBackwardWeightArgs& args, int num_threads) {
  const T* dy = static_cast<const T*>(args.dy);
  auto* dbias = static_cast<Accumulator<T>*>(args.dbias);
  parallel_for(num_threads, args.out_features, 64, [&](int64_t begin, int64_t end) {
    if (!args.accumulate_bias) std::fill(dbias + begin, dbias + end, Accumulator<T>{0});
    for (int64_t m = 0; m < args.rows; ++m) {
      const T* dy_row = dy + m * args.out_features;
      for (int64_t n = begin; n < end; ++n) dbias[n] += static_cast<Accumulator<T>>(dy_row[n]);
    }
  });
}

}  // namespace weft
