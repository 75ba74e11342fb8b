// Adafactor's passes. The sums by row and by column of a matrix are made on the device, one warp a row and one thread a
// column, each in one order, and added to the host's on the host.
#include <algorithm>
#include <vector>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/optimizer_parts.h"
#include "kernels/cuda/optimizer_storage.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;

/// The part of a matrix that a run of elements touches: rows [first_row, first_row + num_rows), and columns likewise,
/// both counted on through the leading dims.
struct Touched {
  int64_t first_row, num_rows, first_column, num_columns;

  template <typename Args>
  explicit Touched(const Args& args) {
    int64_t begin = args.map.full_index(0), last = args.map.full_index(args.count - 1);
    int64_t matrix = args.rows * args.columns;
    first_row = begin / args.columns;
    num_rows = last / args.columns - first_row + 1;
    first_column = begin / matrix * args.columns;
    num_columns = (last / matrix + 1) * args.columns - first_column;
  }
};

struct Run {
  const float* grad;
  ElementMap map;  // merged
  int64_t count, rows, columns;
  double scale, epsilon;
  Touched touched;
};

/// How many elements of the run come before element `full` of the parameter.
__device__ __forceinline__ int64_t elements_before(const Run& run, int64_t full) {
  const ElementMap& map = run.map;
  int64_t position = full % map.full_width - map.offset;
  position = position < 0 ? 0 : (position > map.local_width ? map.local_width : position);
  int64_t before = full / map.full_width * map.local_width + position - map.first;
  return before < 0 ? 0 : (before > run.count ? run.count : before);
}

__device__ __forceinline__ double square(const Run& run, int64_t i) {
  double g = run.scale * double{run.grad[i]};
  return fma(g, g, run.epsilon);
}

/// A warp a row: the elements of a row are neighbours in the run.
__global__ void __launch_bounds__(kThreads) row_sums_kernel(Run run, double* sums) {
  int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (row >= run.touched.num_rows) return;
  int64_t full = (run.touched.first_row + row) * run.columns;
  int64_t begin = elements_before(run, full), end = elements_before(run, full + run.columns);
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x % 32; i < end; i += 32) sum += square(run, i);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[row] = sum;
}

/// A thread a column, over slab blockIdx.y of the rows of its matrix; slabs is [gridDim.y, num_columns].
__global__ void __launch_bounds__(kThreads) column_sums_kernel(Run run, double* slabs) {
  int64_t own = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (own >= run.touched.num_columns) return;
  int64_t first_row = (run.touched.first_column + own) / run.columns * run.rows;
  int64_t column = (run.touched.first_column + own) % run.columns;
  int64_t begin = run.rows * blockIdx.y / gridDim.y, end = run.rows * (blockIdx.y + 1) / gridDim.y;
  const ElementMap& map = run.map;
  int64_t full = (first_row + begin) * run.columns + column;
  int64_t outer = full / map.full_width, position = full % map.full_width;
  double sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    int64_t local = position - map.offset;
    int64_t i = outer * map.local_width + local - map.first;
    if (local >= 0 && local < map.local_width && i >= 0 && i < run.count) sum += square(run, i);
    position += run.columns;
    while (position >= map.full_width) {
      position -= map.full_width;
      ++outer;
    }
  }
  slabs[blockIdx.y * run.touched.num_columns + own] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_slabs_kernel(const double* slabs, double* sums, int64_t num_slabs, int64_t num_columns) {
  int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= num_columns) return;
  double sum = 0;
#pragma unroll 4
  for (int64_t slab = 0; slab < num_slabs; ++slab) sum += slabs[slab * num_columns + column];
  sums[column] = sum;
}

struct FactoredUpdate {
  const float* grad;
  float* update;
  ElementMap map;  // merged
  int64_t rows, columns, first_row, first_column;
  float scale;
  const float* row_factors;  // of the touched rows and columns
  const float* column_factors;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float g[N];
    load_floats(grad + i, g);
    int64_t full = map.full_index(i), column = full % columns;
    bool is_one_run = N == 1 || (map.run_length(i) >= N && column + N <= columns);
    if (is_one_run) {
      multiply(g, full, column);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        float one[1] = {g[k]};
        int64_t own = map.full_index(i + k);
        multiply(one, own, own % columns);
        g[k] = one[0];
      }
    }
    store_floats(update + i, g);
  }

  /// N neighbours of a row, the first at element `full` of the parameter.
  template <int N>
  __device__ __forceinline__ void multiply(float (&g)[N], int64_t full, int64_t column) const {
    float row_factor = __fmul_rn(scale, row_factors[full / columns - first_row]);
    const float* factors = column_factors + (full / (rows * columns) * columns + column - first_column);
#pragma unroll
    for (int k = 0; k < N; ++k) g[k] = __fmul_rn(__fmul_rn(g[k], row_factor), factors[k]);
  }
};

struct RmsUpdate {
  const float* grad;
  float* exp_avg_sq;
  float* update;
  float scale, epsilon, rest;

  template <int N>
  __device__ __forceinline__ void run(int64_t i) const {
    float g[N], v[N];
    load_floats(grad + i, g);
    load_floats(exp_avg_sq + i, v);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      g[k] = __fmul_rn(scale, g[k]);
      v[k] = __fmaf_rn(rest, __fsub_rn(__fmaf_rn(g[k], g[k], epsilon), v[k]), v[k]);
      g[k] = g[k] / sqrtf(v[k]);
    }
    store_floats(exp_avg_sq + i, v);
    store_floats(update + i, g);
  }
};

}  // namespace

void factored_sums(const FactoredSumsArgs& args, const Stream& stream) {
  if (args.count == 0) return;
  CudaDevice& device = device_of(stream);
  Touched touched(args);
  Run run{.grad = args.grad,
          .map = merged(args.map),
          .count = args.count,
          .rows = args.rows,
          .columns = args.columns,
          .scale = args.gradient_scale,
          .epsilon = args.epsilon,
          .touched = touched};
  int64_t across = ceil_div(touched.num_columns, kThreads);
  int64_t slabs =
      std::min({ceil_div(args.rows, 32), ceil_div(int64_t{8} * device.num_multiprocessors(), across), int64_t{1024}});
  DeviceBuffer<double> sums(device, touched.num_rows + touched.num_columns);
  DeviceBuffer<double> slab_sums(device, slabs * touched.num_columns);
  double* column_sums = sums.data() + touched.num_rows;
  auto row_blocks = static_cast<unsigned>(ceil_div(touched.num_rows, kThreads / 32));
  dim3 column_blocks(static_cast<unsigned>(across), static_cast<unsigned>(slabs));
  row_sums_kernel<<<row_blocks, kThreads, 0, device.stream()>>>(run, sums.data());
  column_sums_kernel<<<column_blocks, kThreads, 0, device.stream()>>>(run, slab_sums.data());
  add_slabs_kernel<<<column_blocks.x, kThreads, 0, device.stream()>>>(
      slab_sums.data(), column_sums, slabs, touched.num_columns);
  check_launch("factored_sums");
  std::vector<double> on_host(static_cast<size_t>(touched.num_rows + touched.num_columns));
  device.copy_to_host(on_host.data(), sums.data(), on_host.size() * sizeof(double));
  double* row_sums = args.row_sums + (touched.first_row - args.first_row);
  for (int64_t row = 0; row < touched.num_rows; ++row) row_sums[row] += on_host[static_cast<size_t>(row)];
  double* to_columns = args.column_sums + (touched.first_column - args.first_column);
  const double* from_columns = on_host.data() + touched.num_rows;
  for (int64_t column = 0; column < touched.num_columns; ++column) to_columns[column] += from_columns[column];
}

void factored_update(const FactoredUpdateArgs& args, const Stream& stream) {
  if (args.count == 0) return;
  CudaDevice& device = device_of(stream);
  Touched touched(args);
  auto row_factors = uploaded(device, args.row_factors + touched.first_row, touched.num_rows);
  auto column_factors = uploaded(device, args.column_factors + touched.first_column, touched.num_columns);
  FactoredUpdate body{.grad = args.grad,
                      .update = args.update,
                      .map = merged(args.map),
                      .rows = args.rows,
                      .columns = args.columns,
                      .first_row = touched.first_row,
                      .first_column = touched.first_column,
                      .scale = static_cast<float>(args.gradient_scale),
                      .row_factors = row_factors.data(),
                      .column_factors = column_factors.data()};
  bool fits = packs_fit(args.grad, kOptimizerPack) && packs_fit(args.update, kOptimizerPack);
  launch_packs<kOptimizerPack>(device, args.count, fits, body, "factored_update");
}

void rms_update(const RmsUpdateArgs& args, const Stream& stream) {
  RmsUpdate body{.grad = args.grad,
                 .exp_avg_sq = args.exp_avg_sq,
                 .update = args.update,
                 .scale = static_cast<float>(args.gradient_scale),
                 .epsilon = static_cast<float>(args.epsilon),
                 .rest = args.update_moments ? static_cast<float>(1 - args.beta2) : 0.0f};
  bool fits = packs_fit(args.grad, kOptimizerPack) && packs_fit(args.exp_avg_sq, kOptimizerPack) &&
              packs_fit(args.update, kOptimizerPack);
  launch_packs<kOptimizerPack>(device_of(stream), args.count, fits, body, "rms_update");
}

}  // namespace weft::cuda
