// Cross entropy over a vocabulary of which this rank holds the columns [column_begin, column_begin + columns). The op
// reduces between the phases. Accumulation and results are f32 (f64 for f64 logits); logits are f32 or f64.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels/stream.h"

namespace weft {

/// maximum[r] = largest logit of row r.
struct RowMaximumArgs {
  const void* logits = nullptr;  // [rows, columns]
  void* maximum = nullptr;       // [rows]
  int64_t rows = 0, columns = 0;
  DType dtype = DType::f32;
};

/// sum_exp[r] = Σ exp(logit − maximum[r]); target_logit[r] = the target's logit − maximum[r] if it lies in this range,
/// else 0.
struct RowSumExpArgs {
  const void* logits = nullptr;
  const void* maximum = nullptr;
  const int32_t* targets = nullptr;  // [rows]; negative: ignored row
  void* sum_exp = nullptr;
  void* target_logit = nullptr;
  int64_t rows = 0, columns = 0, column_begin = 0;
  DType dtype = DType::f32;
};

/// dlogits = (softmax − one_hot(target)) · row_scale[r]; rows with a negative target get zeros.
struct CrossEntropyBackwardArgs {
  const void* logits = nullptr;
  const void* maximum = nullptr;
  const void* sum_exp = nullptr;  // over the whole vocabulary
  const int32_t* targets = nullptr;
  const void* row_scale = nullptr;  // [rows]
  void* dlogits = nullptr;          // may alias logits
  int64_t rows = 0, columns = 0, column_begin = 0;
  DType dtype = DType::f32;
};

struct CrossEntropyKernels {
  void (*row_maximum)(const RowMaximumArgs&, const Stream&) = nullptr;
  void (*row_sum_exp)(const RowSumExpArgs&, const Stream&) = nullptr;
  void (*backward)(const CrossEntropyBackwardArgs&, const Stream&) = nullptr;
};

}  // namespace weft
