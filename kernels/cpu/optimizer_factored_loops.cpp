#include "kernels/cpu/loop_math.h"
#include "kernels/cpu/loop_tables.h"

namespace weft::WEFT_ISA {
namespace {

/// Calls body(i, count, row, column) for the runs of [begin, end) that lie within one row: elements [i, i + count), the
/// first at (row, column).
template <typename Args, typename Body>
WEFT_INLINE void for_each_row_run(const Args& args, int64_t begin, int64_t end, const Body& body) {
  const ElementMap& map = args.map;
  while (begin < end) {
    int64_t local = map.first + begin;
    int64_t position = local % map.local_width;
    int64_t full = local / map.local_width * map.full_width + map.offset + position;
    int64_t column = full % args.columns;
    int64_t count = smaller(smaller(end - begin, map.local_width - position), args.columns - column);
    body(begin, count, full / args.columns, full / (args.rows * args.columns) * args.columns + column);
    begin += count;
  }
}

}  // namespace

void factored_sums(const FactoredSumsArgs& args, int64_t begin, int64_t end) {
  double scale = args.gradient_scale, epsilon = args.epsilon;
  for_each_row_run(args, begin, end, [&](int64_t first, int64_t count, int64_t row, int64_t column) WEFT_INLINE_LAMBDA {
    const float* grad = args.grad + first;
    double* column_sums = args.column_sums + (column - args.first_column);
    double row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
    for (int64_t i = 0; i < count; ++i) {
      double g = scale * static_cast<double>(grad[i]);
      double square = g * g + epsilon;
      column_sums[i] += square;
      row_sum += square;
    }
    args.row_sums[row - args.first_row] += row_sum;
  });
}

void factored_update(const FactoredUpdateArgs& args, int64_t begin, int64_t end) {
  for_each_row_run(args, begin, end, [&](int64_t first, int64_t count, int64_t row, int64_t column) WEFT_INLINE_LAMBDA {
    const float* grad = args.grad + first;
    const float* column_factors = args.column_factors + column;
    float* update = args.update + first;
    float row_factor = static_cast<float>(args.gradient_scale) * args.row_factors[row];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) update[i] = grad[i] * row_factor * column_factors[i];
  });
}

void rms_update(const RmsUpdateArgs& args, int64_t begin, int64_t end) {
  const float* grad = args.grad;
  float* exp_avg_sq = args.exp_avg_sq;
  float* update = args.update;
  float scale = static_cast<float>(args.gradient_scale), epsilon = static_cast<float>(args.epsilon);
  float rest = args.update_moments ? static_cast<float>(1 - args.beta2) : 0.0f;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    float g = scale * grad[i];
    float v = exp_avg_sq[i] + rest * (g * g + epsilon - exp_avg_sq[i]);
    exp_avg_sq[i] = v;
    update[i] = g / square_root(v);
  }
}

}  // namespace weft::WEFT_ISA
