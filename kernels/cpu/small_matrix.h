// Matrices of one sequence and head, in the precision that is computed in, and their products.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/small_product.h"

namespace weft {

template <typename T>
using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Rows padded with zeros to what products demand.
template <typename R>
struct Matrix {
  Matrix() = default;
  Matrix(int64_t num_rows, int64_t num_columns)
      : rows(num_rows),
        width(num_columns),
        stride((num_columns + kSmallProductWidth - 1) / kSmallProductWidth * kSmallProductWidth),
        cells(static_cast<size_t>(num_rows * stride)) {}
  R* row(int64_t index) { return cells.data() + index * stride; }
  const R* row(int64_t index) const { return cells.data() + index * stride; }
  bool empty() const { return cells.empty(); }

  int64_t rows = 0, width = 0, stride = 0;
  std::vector<R> cells;
};

/// c += a·b.
template <typename R>
void add_product(Matrix<R>& c, const Matrix<R>& a, const Matrix<R>& b) {
  cpu_loops().small_product({.a = a.row(0),
                             .a_row = a.stride,
                             .a_step = 1,
                             .b = b.row(0),
                             .b_stride = b.stride,
                             .c = c.row(0),
                             .c_stride = c.stride,
                             .rows = a.rows,
                             .steps = a.width,
                             .width = b.stride,
                             .dtype = DTypeOf<R>::value});
}

/// c += aᵀ·b, to the rows of c from `first_row` on.
template <typename R>
void add_transposed_product(Matrix<R>& c, const Matrix<R>& a, const Matrix<R>& b, int64_t first_row = 0) {
  cpu_loops().small_product({.a = a.row(0),
                             .a_row = 1,
                             .a_step = a.stride,
                             .b = b.row(0),
                             .b_stride = b.stride,
                             .c = c.row(first_row),
                             .c_stride = c.stride,
                             .rows = a.width,
                             .steps = a.rows,
                             .width = b.stride,
                             .dtype = DTypeOf<R>::value});
}

template <typename R>
Matrix<R> transposed(const Matrix<R>& from) {
  Matrix<R> to(from.width, from.rows);
  for (int64_t r = 0; r < from.rows; ++r) {
    for (int64_t i = 0; i < from.width; ++i) to.row(i)[r] = from.row(r)[i];
  }
  return to;
}

/// a·bᵀ; empty without a b.
template <typename R>
Matrix<R> product_with_transposed(const Matrix<R>& a, const Matrix<R>& b) {
  if (b.empty()) return {};
  Matrix<R> c(a.rows, b.rows);
  add_product(c, a, transposed(b));
  return c;
}

template <typename T>
Matrix<Real<T>> load_rows(const void* base, int64_t first, int64_t stride, int64_t rows, int64_t width) {
  const T* from = static_cast<const T*>(base) + first;
  Matrix<Real<T>> result(rows, width);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) result.row(r)[i] = static_cast<Real<T>>(from[r * stride + i]);
  }
  return result;
}

template <typename T>
void store_rows(const Matrix<Real<T>>& from, void* base, int64_t first, int64_t stride) {
  T* to = static_cast<T*>(base) + first;
  for (int64_t r = 0; r < from.rows; ++r) {
    for (int64_t i = 0; i < from.width; ++i) to[r * stride + i] = static_cast<T>(from.row(r)[i]);
  }
}

}  // namespace weft
