#include "kernels/optimizer.h"

#include <numeric>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/parallel_tasks.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

constexpr int64_t kBlock = int64_t{32} << 10;
constexpr int64_t kSumBlock = int64_t{16} << 10;

void check_weight(const OptimizerWeight& weight, const char* kernel) {
  bool is_bf16 = weight.dtype == DType::bf16;
  bool fits = false;
  switch (weight.storage) {
    case WeightStorage::own:
      fits = is_bf16 || weight.dtype == DType::f32;
      break;
    case WeightStorage::low_bits:
      fits = is_bf16 && weight.extra != nullptr;
      break;
    case WeightStorage::rounded:
      fits = weight.dtype == DType::f32 && weight.extra != nullptr;
      break;
    case WeightStorage::stochastic:
      fits = is_bf16;
      break;
  }
  if (!fits) fail(ExitCode::failure, "{} has no cpu kernel for {} weights kept so", kernel, dtype_name(weight.dtype));
}

/// body(begin, end) on blocks of [0, count).
template <typename Body>
void for_blocks(const Stream& stream, int64_t count, int64_t block, const Body& body) {
  parallel_tasks(stream.num_threads, (count + block - 1) / block, [&](int64_t task) {
    body(task * block, std::min(count, (task + 1) * block));
  });
}

template <typename Args, void (*CpuLoops::*loop)(const Args&, int64_t, int64_t)>
void run_blocks(const Args& args, const Stream& stream) {
  for_blocks(stream, args.count, kBlock, [&](int64_t begin, int64_t end) { (cpu_loops().*loop)(args, begin, end); });
}

template <typename Args, void (*CpuLoops::*loop)(const Args&, int64_t, int64_t)>
void update_weights(const Args& args, const Stream& stream) {
  check_weight(args.weight, "optimizer");
  run_blocks<Args, loop>(args, stream);
}

AdamNorms adam_norms(const AdamArgs& args, const Stream& stream) {
  check_weight(args.weight, "adam_norms");
  std::vector<AdamNorms> parts(static_cast<size_t>((args.count + kSumBlock - 1) / kSumBlock));
  for_blocks(stream, args.count, kSumBlock, [&](int64_t begin, int64_t end) {
    parts[static_cast<size_t>(begin / kSumBlock)] = cpu_loops().adam_norms(args, begin, end);
  });
  AdamNorms sums;
  for (const AdamNorms& part : parts) {
    sums.weight += part.weight;
    sums.update += part.update;
  }
  return sums;
}

double sum_of_squares(const OptimizerWeight& values, int64_t count, const Stream& stream) {
  check_weight(values, "sum_of_squares");
  std::vector<double> parts(static_cast<size_t>((count + kSumBlock - 1) / kSumBlock));
  for_blocks(stream, count, kSumBlock, [&](int64_t begin, int64_t end) {
    parts[static_cast<size_t>(begin / kSumBlock)] = cpu_loops().master_sum_of_squares(values, begin, end);
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

double sum_of_all_squares(std::span<const SquaredArray> arrays, const Stream& stream) {
  double sum = 0;
  for (const SquaredArray& array : arrays) {
    // The kernel only reads.
    sum += sum_of_squares({.weight = const_cast<float*>(array.values)}, array.count, stream);
  }
  return sum;
}

/// Each thread sums a contiguous part of the run into vectors of its own; they are added in order.
void factored_sums(const FactoredSumsArgs& args, const Stream& stream) {
  if (args.count == 0) return;
  int64_t last = args.count - 1;
  int64_t first_row = args.map.full_index(0) / args.columns, last_row = args.map.full_index(last) / args.columns;
  int64_t matrix = args.rows * args.columns;
  int64_t first_column = args.map.full_index(0) / matrix * args.columns;
  int64_t rows = last_row - first_row + 1;
  int64_t columns = (args.map.full_index(last) / matrix + 1) * args.columns - first_column;
  int64_t threads = std::min<int64_t>(stream.num_threads, (args.count + kBlock - 1) / kBlock);
  Scratch scratch(stream, static_cast<size_t>(threads * (rows + columns)) * sizeof(double));
  auto* sums = reinterpret_cast<double*>(scratch.data());
  parallel_tasks(stream.num_threads, threads, [&](int64_t thread) {
    double* own = sums + thread * (rows + columns);
    std::fill_n(own, rows + columns, 0.0);
    FactoredSumsArgs part = args;
    part.row_sums = own;
    part.column_sums = own + rows;
    part.first_row = first_row;
    part.first_column = first_column;
    cpu_loops().factored_sums(part, args.count * thread / threads, args.count * (thread + 1) / threads);
  });
  for (int64_t thread = 0; thread < threads; ++thread) {
    const double* own = sums + thread * (rows + columns);
    for (int64_t row = 0; row < rows; ++row) args.row_sums[first_row - args.first_row + row] += own[row];
    for (int64_t column = 0; column < columns; ++column)
      args.column_sums[first_column - args.first_column + column] += own[rows + column];
  }
}

}  // namespace

OptimizerKernels cpu_optimizer_kernels() {
  return {.adam = update_weights<AdamArgs, &CpuLoops::adam>,
          .adam_norms = adam_norms,
          .lion = update_weights<LionArgs, &CpuLoops::lion>,
          .apply_update = update_weights<ApplyUpdateArgs, &CpuLoops::apply_update>,
          .average = update_weights<AverageArgs, &CpuLoops::average_weights>,
          .load_master = update_weights<CopyMasterArgs, &CpuLoops::load_master>,
          .store_master = update_weights<CopyMasterArgs, &CpuLoops::store_master>,
          .sum_of_squares = sum_of_squares,
          .sum_of_all_squares = sum_of_all_squares,
          .factored_sums = factored_sums,
          .factored_update = run_blocks<FactoredUpdateArgs, &CpuLoops::factored_update>,
          .rms_update = run_blocks<RmsUpdateArgs, &CpuLoops::rms_update>};
}

}  // namespace weft
