#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

/// One row fits the second-level cache: the loops over it read memory once.
template <typename R>
void statistics_rows(const RowStatisticsArgs& args, int64_t begin, int64_t end) {
  R cap = args.soft_cap;
  for (int64_t row = begin; row < end; ++row) {
    R* logits = static_cast<R*>(args.logits) + row * args.columns;
    if (args.soft_cap > 0) {
      R inverse_cap = R(1) / cap;
#pragma omp simd
      for (int64_t i = 0; i < args.columns; ++i) logits[i] = cap * hyperbolic_tangent(logits[i] * inverse_cap);
    }
    R maximum = -__builtin_inf();
#pragma omp simd reduction(max : maximum)
    for (int64_t i = 0; i < args.columns; ++i) maximum = logits[i] > maximum ? logits[i] : maximum;
    R sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < args.columns; ++i) sum += exponential(logits[i] - maximum);
    static_cast<R*>(args.maximum)[row] = maximum;
    static_cast<R*>(args.sum_exp)[row] = sum;
    int64_t target = args.targets[row] - args.column_begin;
    bool is_here = args.targets[row] >= 0 && target >= 0 && target < args.columns;
    static_cast<R*>(args.target_logit)[row] = is_here ? logits[target] - maximum : R(0);
  }
}

template <typename R>
WEFT_INLINE R cap_derivative(R logit, R inverse_cap) {
  R tangent = logit * inverse_cap;
  return R(1) - tangent * tangent;
}

/// `inverse_cap` is 0 without a cap. The target's element may be rounded: it is computed whole, not corrected after.
template <typename R, typename D>
void backward_rows(const CrossEntropyBackwardArgs& args, int64_t begin, int64_t end) {
  R inverse_cap = args.soft_cap > 0 ? R(1) / R(args.soft_cap) : R(0);
  for (int64_t row = begin; row < end; ++row) {
    const R* logits = static_cast<const R*>(args.logits) + row * args.columns;
    D* dlogits = static_cast<D*>(args.dlogits) + row * args.columns;
    if (args.targets[row] < 0) {
      for (int64_t i = 0; i < args.columns; ++i) dlogits[i] = D{};
      continue;
    }
    R maximum = static_cast<const R*>(args.maximum)[row];
    R row_scale = static_cast<const R*>(args.row_scale)[row];
    R factor = row_scale / static_cast<const R*>(args.sum_exp)[row];
    int64_t target = args.targets[row] - args.column_begin;
    bool is_here = target >= 0 && target < args.columns;
    R target_logit = is_here ? logits[target] : R(0);
#pragma omp simd
    for (int64_t i = 0; i < args.columns; ++i) {
      dlogits[i] = round_to<D>(exponential(logits[i] - maximum) * factor * cap_derivative(logits[i], inverse_cap));
    }
    if (is_here) {
      R probability = exponential(target_logit - maximum) * factor;
      dlogits[target] = round_to<D>((probability - row_scale) * cap_derivative(target_logit, inverse_cap));
    }
  }
}

}  // namespace

void row_statistics(const RowStatisticsArgs& args, int64_t begin, int64_t end) {
  if (args.dtype == DType::f64) {
    statistics_rows<double>(args, begin, end);
  } else {
    statistics_rows<float>(args, begin, end);
  }
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.dtype == DType::f64 && args.dlogits_dtype == DType::f64) {
    backward_rows<double, double>(args, begin, end);
  } else if (args.dtype == DType::f64) {
    backward_rows<double, bfloat16>(args, begin, end);
  } else if (args.dlogits_dtype == DType::f32) {
    backward_rows<float, float>(args, begin, end);
  } else {
    backward_rows<float, bfloat16>(args, begin, end);
  }
}

}  // namespace weft::WEFT_ISA
