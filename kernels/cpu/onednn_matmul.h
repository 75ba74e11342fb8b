// f32 matrix products by oneDNN. Only in builds with OpenMP: Debian's oneDNN runs on the same runtime as our kernels.
#pragma once

#include <cstdint>

namespace weft {

/// A matrix in memory, [rows, columns] as the product sees it; element (i, j) at i·row_stride + j·column_stride, one
/// stride being 1.
struct MatrixView {
  const float* data = nullptr;
  int64_t row_stride = 0;
  int64_t column_stride = 0;
};

/// c[m, n] (row-major, contiguous) = a[m, k] · b[k, n] + bias[n], or c += when `accumulate`.
struct MatrixProduct {
  int64_t m = 0, n = 0, k = 0;
  MatrixView a;
  MatrixView b;
  const float* bias = nullptr;  // or null
  float* c = nullptr;
  bool accumulate = false;
};

void onednn_matmul(const MatrixProduct& product, int num_threads);

}  // namespace weft
