#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

template <typename R>
void maximum_rows(const RowMaximumArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const R* logits = static_cast<const R*>(args.logits) + row * args.columns;
    R maximum = -__builtin_inf();
#pragma omp simd reduction(max : maximum)
    for (int64_t i = 0; i < args.columns; ++i) maximum = logits[i] > maximum ? logits[i] : maximum;
    static_cast<R*>(args.maximum)[row] = maximum;
  }
}

template <typename R>
void sum_exp_rows(const RowSumExpArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const R* logits = static_cast<const R*>(args.logits) + row * args.columns;
    R maximum = static_cast<const R*>(args.maximum)[row];
    R sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < args.columns; ++i) sum += exponential(logits[i] - maximum);
    static_cast<R*>(args.sum_exp)[row] = sum;
    int64_t target = args.targets[row] - args.column_begin;
    bool is_here = args.targets[row] >= 0 && target >= 0 && target < args.columns;
    static_cast<R*>(args.target_logit)[row] = is_here ? logits[target] - maximum : R(0);
  }
}

template <typename R>
void backward_rows(const CrossEntropyBackwardArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const R* logits = static_cast<const R*>(args.logits) + row * args.columns;
    R* dlogits = static_cast<R*>(args.dlogits) + row * args.columns;
    if (args.targets[row] < 0) {
      for (int64_t i = 0; i < args.columns; ++i) dlogits[i] = 0;
      continue;
    }
    R maximum = static_cast<const R*>(args.maximum)[row];
    R row_scale = static_cast<const R*>(args.row_scale)[row];
    R factor = row_scale / static_cast<const R*>(args.sum_exp)[row];
#pragma omp simd
    for (int64_t i = 0; i < args.columns; ++i) dlogits[i] = exponential(logits[i] - maximum) * factor;
    int64_t target = args.targets[row] - args.column_begin;
    if (target >= 0 && target < args.columns) dlogits[target] -= row_scale;
  }
}

}  // namespace

void row_maximum(const RowMaximumArgs& args, int64_t begin, int64_t end) {
  if (args.dtype == DType::f64) {
    maximum_rows<double>(args, begin, end);
  } else {
    maximum_rows<float>(args, begin, end);
  }
}

void row_sum_exp(const RowSumExpArgs& args, int64_t begin, int64_t end) {
  if (args.dtype == DType::f64) {
    sum_exp_rows<double>(args, begin, end);
  } else {
    sum_exp_rows<float>(args, begin, end);
  }
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& args, int64_t begin, int64_t end) {
  if (args.dtype == DType::f64) {
    backward_rows<double>(args, begin, end);
  } else {
    backward_rows<float>(args, begin, end);
  }
}

}  // namespace weft::WEFT_ISA
