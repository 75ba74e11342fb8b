// Cross entropy over a vocabulary of which this rank holds the columns [column_begin, column_begin + columns). The op
// reduces between the phases. Accumulation and results are f32 (f64 for f64 logits); logits are f32 or f64.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

/// With soft_cap c > 0 the logits are first replaced by c·tanh(logit / c), in place. maximum[r] = largest logit of row
/// r; sum_exp[r] = Σ exp(logit − maximum[r]); target_logit[r] = the target's logit − maximum[r] if it lies in this
/// range, else 0. One pass over memory.
struct RowStatisticsArgs {
  void* logits = nullptr;            // [rows, columns]
  const int32_t* targets = nullptr;  // [rows]; negative: ignored row
  void* maximum = nullptr;           // [rows]
  void* sum_exp = nullptr;           // [rows]
  void* target_logit = nullptr;      // [rows]
  int64_t rows = 0, columns = 0, column_begin = 0;
  float soft_cap = 0;
  DType dtype = DType::f32;
};

/// dlogits = (softmax − one_hot(target)) · row_scale[r], times 1 − (logit / c)² with a soft cap c; rows with a negative
/// target get zeros.
struct CrossEntropyBackwardArgs {
  const void* logits = nullptr;   // capped
  const void* maximum = nullptr;  // this and the sum: over the whole vocabulary
  const void* sum_exp = nullptr;
  const int32_t* targets = nullptr;
  const void* row_scale = nullptr;  // [rows]
  void* dlogits = nullptr;          // [rows, columns]; may alias logits if of the same dtype
  int64_t rows = 0, columns = 0, column_begin = 0;
  float soft_cap = 0;
  DType dtype = DType::f32;
  DType dlogits_dtype = DType::f32;  // dtype, or bf16
};

struct CrossEntropyKernels {
  void (*row_statistics)(const RowStatisticsArgs&, const Stream&) = nullptr;
  void (*backward)(const CrossEntropyBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
