#include <algorithm>

#include "kernels/cuda/best_value.cuh"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/elementwise_parts.h"
#include "kernels/cuda/launch.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxParts = 64;

/// A part of a row a block.
template <typename T>
__global__ void __launch_bounds__(kThreads) best_of_parts(const T* x, Best* parts, int64_t width) {
  __shared__ Best of_warps[kThreads / 32];
  let_next_start();
  wait_for_previous();
  const T* row = x + blockIdx.y * width;
  Best best{0, -1};
  int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll 4
  for (int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; column < width; column += step) {
    float value = to_float(row[column]);
    if (!isnan(value)) best = better(best, {value, static_cast<int32_t>(column)});
  }
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = threadIdx.x < kThreads / 32 ? of_warps[threadIdx.x] : Best{0, -1};
  best = best_of_warp(best);
  if (threadIdx.x == 0) parts[blockIdx.y * gridDim.x + blockIdx.x] = best;
}

/// A warp a row. No id where the largest value is no finite number.
__global__ void best_of_rows(const Best* parts, int32_t* ids, int num_parts) {
  let_next_start();
  wait_for_previous();
  Best best{0, -1};
  for (int part = threadIdx.x; part < num_parts; part += 32) best = better(best, parts[blockIdx.x * num_parts + part]);
  best = best_of_warp(best);
  if (threadIdx.x == 0) ids[blockIdx.x] = isfinite(best.value) ? best.column : -1;
}

}  // namespace

void argmax(const ArgmaxArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  CudaDevice& device = device_of(stream);
  int64_t num_parts = std::min(ceil_div(args.width, int64_t{kThreads} * 4), kMaxParts);
  DeviceBuffer<Best> parts(device, args.rows * num_parts);
  dim3 grid(static_cast<unsigned>(num_parts), static_cast<unsigned>(args.rows));
  dispatch(args.dtype, "argmax", [&](auto zero) {
    using T = decltype(zero);
    launch(best_of_parts<T>, grid, kThreads, 0, device, static_cast<const T*>(args.x), parts.data(), args.width);
  });
  auto rows = static_cast<unsigned>(args.rows);
  launch(best_of_rows, rows, 32, 0, device, parts.data(), args.ids, static_cast<int>(num_parts));
  check_launch("argmax");
}

}  // namespace weft::cuda
