#include <algorithm>
#include <cstdint>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/elementwise_parts.h"
#include "kernels/cuda/packs.cuh"

namespace weft::cuda {
namespace {

constexpr int kTile = 64;
constexpr int kTileLanes = 32;
constexpr int kTileRows = 8;

/// One block a tile, through shared memory, so that both sides are read and written along rows. A tile's rows are
/// padded by one bank: lanes that read a column of it hit 32 different ones.
template <typename Bits>
__global__ void __launch_bounds__(kTileLanes* kTileRows)
    transpose_kernel(const Bits* x, Bits* y, int64_t rows, int64_t columns, int64_t tiles_across) {
  __shared__ Bits tile[kTile][kTile + 4 / sizeof(Bits)];
  int64_t row = blockIdx.x / tiles_across * kTile, column = blockIdx.x % tiles_across * kTile;
#pragma unroll
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
#pragma unroll
    for (int c = threadIdx.x; c < kTile; c += kTileLanes) {
      if (row + r < rows && column + c < columns) tile[r][c] = x[(row + r) * columns + column + c];
    }
  }
  __syncthreads();
#pragma unroll
  for (int c = threadIdx.y; c < kTile; c += kTileRows) {
#pragma unroll
    for (int r = threadIdx.x; r < kTile; r += kTileLanes) {
      if (row + r < rows && column + c < columns) y[(column + c) * rows + row + r] = tile[r][c];
    }
  }
}

template <typename Bits>
void run_transpose(const TransposeArgs& args, CudaDevice& device) {
  int64_t tiles_across = ceil_div(args.columns, kTile);
  int64_t tiles = ceil_div(args.rows, kTile) * tiles_across;
  require(tiles <= INT32_MAX, "transpose", "fewer than 2^31 tiles of 64 x 64");
  dim3 threads(kTileLanes, kTileRows);
  transpose_kernel<<<static_cast<unsigned>(tiles), threads, 0, device.stream()>>>(
      static_cast<const Bits*>(args.x), static_cast<Bits*>(args.y), args.rows, args.columns, tiles_across);
  check_launch("transpose");
}

constexpr int kScaleThreads = 256;

/// Each thread keeps the factors of its columns and walks down the rows.
template <typename T, int N>
__global__ void __launch_bounds__(kScaleThreads)
    column_scale_kernel(const T* x, const T* factors, T* y, int64_t rows, int64_t width) {
  int64_t column = (int64_t{blockIdx.x} * kScaleThreads + threadIdx.x) * N;
  if (column >= width) return;
  float factor[N];
  load_floats(factors + column, factor);
#pragma unroll 2
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float values[N];
    load_floats(x + row * width + column, values);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] *= factor[k];
    store_floats(y + row * width + column, values);
  }
}

template <typename T, int N>
void launch_column_scale(const void* x, const void* factors, void* y, int64_t rows, int64_t width, CudaDevice& device) {
  int64_t across = ceil_div(ceil_div(width, N), kScaleThreads);
  // About eight blocks a multiprocessor, when there are rows for as many.
  int64_t down = std::min({rows, ceil_div(int64_t{8} * device.num_multiprocessors(), across), int64_t{65535}});
  dim3 blocks(static_cast<unsigned>(across), static_cast<unsigned>(down));
  column_scale_kernel<T, N><<<blocks, kScaleThreads, 0, device.stream()>>>(
      static_cast<const T*>(x), static_cast<const T*>(factors), static_cast<T*>(y), rows, width);
  check_launch("column_scale");
}

template <typename T>
void scale_columns(const void* x, const void* factors, void* y, int64_t rows, int64_t width, CudaDevice& device) {
  constexpr int kSize = kPackSize<T>;
  bool fits = width % kSize == 0 && is_aligned(x) && is_aligned(factors) && is_aligned(y);
  if (fits) {
    launch_column_scale<T, kSize>(x, factors, y, rows, width, device);
  } else {
    launch_column_scale<T, 1>(x, factors, y, rows, width, device);
  }
}

constexpr int kSumRows = 8;

/// Sums of 32 columns over a slab of rows: slab blockIdx.y of gridDim.y. `sums` is [slabs, width]; with one slab they
/// are added to instead. A block's threads of a column are added in order, so that results repeat to the bit.
template <typename T>
__global__ void __launch_bounds__(32 * kSumRows)
    column_products_kernel(const T* x, const T* dy, float* sums, int64_t rows, int64_t width) {
  __shared__ float parts[kSumRows][32];
  int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
  int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum = 0;
  if (column < width) {
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += kSumRows) {
      sum += to_float(x[row * width + column]) * to_float(dy[row * width + column]);
    }
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (int part = 1; part < kSumRows; ++part) sum += parts[part][threadIdx.x];
  if (gridDim.y == 1) {
    sums[column] += sum;
  } else {
    sums[blockIdx.y * width + column] = sum;
  }
}

__global__ void __launch_bounds__(kScaleThreads)
    add_slabs_kernel(const float* slabs, float* sums, int64_t num_slabs, int64_t width) {
  int64_t column = int64_t{blockIdx.x} * kScaleThreads + threadIdx.x;
  if (column >= width) return;
  float sum = 0;
#pragma unroll 4
  for (int64_t slab = 0; slab < num_slabs; ++slab) sum += slabs[slab * width + column];
  sums[column] += sum;
}

template <typename T>
void sum_columns(const ColumnScaleBackwardArgs& args, CudaDevice& device) {
  constexpr int64_t kRowsPerThread = 8;
  const T* x = static_cast<const T*>(args.x);
  const T* dy = static_cast<const T*>(args.dy);
  auto* sums = static_cast<float*>(args.dfactors);
  int64_t across = ceil_div(args.width, 32);
  int64_t useful = ceil_div(args.rows, kRowsPerThread * kSumRows);
  int64_t slabs = std::min({useful, ceil_div(int64_t{8} * device.num_multiprocessors(), across), int64_t{1024}});
  dim3 blocks(static_cast<unsigned>(across), static_cast<unsigned>(slabs)), threads(32, kSumRows);
  if (slabs == 1) {
    column_products_kernel<<<blocks, threads, 0, device.stream()>>>(x, dy, sums, args.rows, args.width);
    return check_launch("column_scale_backward");
  }
  DeviceBuffer<float> parts(device, slabs * args.width);
  column_products_kernel<<<blocks, threads, 0, device.stream()>>>(x, dy, parts.data(), args.rows, args.width);
  auto add_blocks = static_cast<unsigned>(ceil_div(args.width, kScaleThreads));
  add_slabs_kernel<<<add_blocks, kScaleThreads, 0, device.stream()>>>(parts.data(), sums, slabs, args.width);
  check_launch("column_scale_backward");
}

}  // namespace

void transpose(const TransposeArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.columns == 0) return;
  dispatch(args.dtype, "transpose", [&](auto zero) {
    if constexpr (sizeof(zero) == 2) {
      run_transpose<uint16_t>(args, device_of(stream));
    } else {
      run_transpose<uint32_t>(args, device_of(stream));
    }
  });
}

void column_scale(const ColumnScaleArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  dispatch(args.dtype, "column_scale", [&](auto zero) {
    scale_columns<decltype(zero)>(args.x, args.factors, args.y, args.rows, args.width, device_of(stream));
  });
}

void column_scale_backward(const ColumnScaleBackwardArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  dispatch(args.dtype, "column_scale_backward", [&](auto zero) {
    using T = decltype(zero);
    // The sums first: dx may be written over dy.
    if (args.dfactors != nullptr) sum_columns<T>(args, device_of(stream));
    if (args.dx != nullptr) {
      scale_columns<T>(args.dy, args.factors, args.dx, args.rows, args.width, device_of(stream));
    }
  });
}

}  // namespace weft::cuda
