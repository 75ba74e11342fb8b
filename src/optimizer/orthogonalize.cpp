#include "optimizer/orthogonalize.h"

#include <cmath>

namespace weft {
namespace {

constexpr int kSteps = 5;
constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;  // X ← aX + (bA + cA²)X, A = XXᵀ

Tensor transpose(const Context& context, const Tensor& matrix) {
  Tensor result = context.empty({matrix.size(1), matrix.size(0)}, DType::f32, MemoryTag::workspace);
  context.kernels().elementwise.transpose(
      {.x = matrix.raw(), .y = result.raw(), .rows = matrix.size(0), .columns = matrix.size(1)}, context.stream());
  return result;
}

/// x·xᵀ.
Tensor gram_matrix(const Context& context, Tensor x) {
  int64_t rows = x.size(0);
  Tensor y = context.empty({rows, rows}, DType::f32, MemoryTag::workspace);
  LinearWeight weight{.weight = x.raw(), .y = y.raw(), .out_features = rows};
  context.kernels().linear.forward({.x = x.raw(), .weights = {&weight, 1}, .rows = rows, .in_features = x.size(1)},
                                   context.stream());
  return y;
}

/// (aI + bA + cA²)·x for A = x·xᵀ, which is symmetric.
Tensor quintic_step(const Context& context, Tensor x) {
  int64_t rows = x.size(0);
  Tensor gram = gram_matrix(context, x);
  Tensor polynomial = gram_matrix(context, gram);
  context.kernels().elementwise.axpby(
      {.x = gram.raw(), .y_in = polynomial.raw(), .y = polynomial.raw(), .count = rows * rows, .a = kB, .b = kC},
      context.stream());
  Tensor result = context.empty(x.shape(), DType::f32, MemoryTag::workspace);
  context.kernels().linear.backward_input({.dy = polynomial.raw(),
                                           .weight = x.raw(),
                                           .dx = result.raw(),
                                           .rows = rows,
                                           .out_features = rows,
                                           .in_features = x.size(1)},
                                          context.stream());
  context.kernels().elementwise.axpby(
      {.x = x.raw(), .y_in = result.raw(), .y = result.raw(), .count = x.num_elements(), .a = kA, .b = 1},
      context.stream());
  return result;
}

Tensor normalized(const Context& context, Tensor matrix) {
  constexpr double kEpsilon = 1e-7;
  int64_t count = matrix.num_elements();
  double norm =
      std::sqrt(context.kernels().optimizer.sum_of_squares({.weight = matrix.raw()}, count, context.stream()));
  Tensor result = context.empty(matrix.shape(), DType::f32, MemoryTag::workspace);
  context.kernels().elementwise.axpby(
      {.x = matrix.raw(), .y = result.raw(), .count = count, .a = 1 / (norm + kEpsilon)}, context.stream());
  return result;
}

}  // namespace

Tensor orthogonalize(const Context& context, const Tensor& matrix) {
  bool is_tall = matrix.size(0) > matrix.size(1);  // the gram matrix of the shorter side is smaller
  Tensor x = normalized(context, is_tall ? transpose(context, matrix) : matrix);
  for (int i = 0; i < kSteps; ++i) x = quintic_step(context, x);
  return is_tall ? transpose(context, x) : x;
}

}  // namespace weft
