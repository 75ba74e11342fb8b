// Element by element: sums, scales, soft caps, dropout, casts, transposition; and row-wise softmax.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/random.h"
#include "kernels/stream.h"

namespace weft {

/// y = a·x + b·y_in (b = 0: y_in is not read). y may alias either. Computed in f32, rounded once. x and y may differ in
/// dtype.
struct AxpbyArgs {
  const void* x = nullptr;
  const void* y_in = nullptr;
  void* y = nullptr;
  int64_t count = 0;
  double a = 1, b = 0;
  DType x_dtype = DType::f32;
  DType y_dtype = DType::f32;  // of y_in and y
};

/// y = cap·tanh(x/cap). Backward, given y: dx = dy·(1 − (y/cap)²).
struct SoftCapArgs {
  const void* x = nullptr;
  void* y = nullptr;
  int64_t count = 0;
  float cap = 1;
  DType dtype = DType::f32;
};
struct SoftCapBackwardArgs {
  const void* y = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;
  int64_t count = 0;
  float cap = 1;
  DType dtype = DType::f32;
};

/// Softmax over the last dimension. Backward, given y: dx = y·(dy − Σ y·dy).
struct SoftmaxArgs {
  const void* x = nullptr;
  void* y = nullptr;
  int64_t rows = 0, width = 0;
  DType dtype = DType::f32;
};
struct SoftmaxBackwardArgs {
  const void* y = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;
  int64_t rows = 0, width = 0;
  DType dtype = DType::f32;
};

/// y = x / (1 − probability) where key.uniform(global index) ≥ probability, else 0. Its own backward with dy for x.
/// Element i of row r has global index (row_begin + r)·global_width + column_begin + i, so that a rank that holds only
/// some rows or columns drops the same elements as one that holds all.
struct DropoutArgs {
  const void* x = nullptr;
  void* y = nullptr;
  int64_t rows = 0, width = 0;
  int64_t global_width = 0, row_begin = 0, column_begin = 0;
  float probability = 0;
  RandomKey key;
  DType dtype = DType::f32;
};

/// y[r, c] = x[r, c]·factors[c]. Backward, given dy: dx[r, c] = dy[r, c]·factors[c], dfactors[c] += Σ dy[r, c]·x[r, c].
struct ColumnScaleArgs {
  const void* x = nullptr;        // [rows, width]
  const void* factors = nullptr;  // [width], dtype
  void* y = nullptr;
  int64_t rows = 0, width = 0;
  DType dtype = DType::f32;
};
struct ColumnScaleBackwardArgs {
  const void* x = nullptr;
  const void* factors = nullptr;
  const void* dy = nullptr;
  void* dx = nullptr;        // or null
  void* dfactors = nullptr;  // [width] f32 (f64 for f64), added to; or null
  int64_t rows = 0, width = 0;
  DType dtype = DType::f32;
};

/// y[j, i] = x[i, j].
struct TransposeArgs {
  const void* x = nullptr;  // [rows, columns]
  void* y = nullptr;        // [columns, rows]
  int64_t rows = 0, columns = 0;
  DType dtype = DType::f32;
};

/// y = deviation·n + centre, n a normal number by Box and Muller from key.uniform of twice the global index (as in
/// DropoutArgs) and of the next.
struct RandomNormalArgs {
  void* y = nullptr;  // [rows, width]
  int64_t rows = 0, width = 0;
  int64_t global_width = 0, row_begin = 0, column_begin = 0;
  float deviation = 1, centre = 0;
  RandomKey key;
  DType dtype = DType::f32;
};

/// ids[r] = the column of row r's largest value, the first one on ties; not-a-numbers lose, −1 if nothing else is
/// there.
struct ArgmaxArgs {
  const void* x = nullptr;  // [rows, width]
  int32_t* ids = nullptr;   // [rows], on the device as x is
  int64_t rows = 0, width = 0;
  DType dtype = DType::f32;
};

struct ElementwiseKernels {
  void (*axpby)(const AxpbyArgs&, const Stream&) = nullptr;
  void (*soft_cap)(const SoftCapArgs&, const Stream&) = nullptr;
  void (*soft_cap_backward)(const SoftCapBackwardArgs&, const Stream&) = nullptr;
  void (*softmax)(const SoftmaxArgs&, const Stream&) = nullptr;
  void (*softmax_backward)(const SoftmaxBackwardArgs&, const Stream&) = nullptr;
  void (*dropout)(const DropoutArgs&, const Stream&) = nullptr;
  void (*transpose)(const TransposeArgs&, const Stream&) = nullptr;
  void (*column_scale)(const ColumnScaleArgs&, const Stream&) = nullptr;
  void (*column_scale_backward)(const ColumnScaleBackwardArgs&, const Stream&) = nullptr;
  /// Where logits would have to travel to the host: empty on the CPU, whose sampler does it.
  void (*argmax)(const ArgmaxArgs&, const Stream&) = nullptr;
  /// Where the host would be slow: empty on the CPU, whose weights are filled by many threads.
  void (*random_normal)(const RandomNormalArgs&, const Stream&) = nullptr;
};

}  // namespace weft
