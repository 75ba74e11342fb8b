// What the norms share: how a row's elements lie in the threads of a block, and sums over rows and over columns.
#pragma once

#include <type_traits>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::cuda {

/// How a block walks its rows: `threads` on a row (a power of two up to 32, or a multiple of 32 and then one row a
/// block), each with up to `held` packs of elements in registers. 0 held: the row is too long for registers.
struct RowShape {
  int threads = 32, rows_per_block = 1, held = 1;
};

inline int round_to_warps(int64_t threads) {
  return static_cast<int>(ceil_div(threads, 32) * 32);
}

/// Several rows to a block for rows of few packs.
inline RowShape short_row_shape(const CudaDevice& device, int64_t rows, int64_t packs) {
  RowShape shape{.threads = 1};
  while (shape.threads < 32 && shape.threads < packs) shape.threads *= 2;
  shape.held = packs <= 32 ? 1 : packs <= 64 ? 2 : 4;
  int64_t warps = rows * shape.threads / 32 / device.num_multiprocessors();
  warps = warps < 1 ? 1 : warps > 8 ? 8 : warps;
  shape.rows_per_block = static_cast<int>(warps) * 32 / shape.threads;
  return shape;
}

/// For a pass over rows without memory from row to row. Few rows: as many threads on each as it has packs, for latency;
/// many: more loads a thread and fewer threads to wait for.
inline RowShape forward_row_shape(const CudaDevice& device, int64_t rows, int64_t packs) {
  bool many = rows >= 2 * static_cast<int64_t>(device.num_multiprocessors());
  if (packs <= 32 || (many && packs <= 128)) return short_row_shape(device, rows, packs);
  if (packs > 2048) return {.threads = 1024, .held = 0};
  int64_t wanted = many ? 256 : 1024;
  int held = packs <= wanted ? 1 : packs <= 2 * wanted ? 2 : 4;
  return {.threads = round_to_warps(ceil_div(packs, held)), .held = held};
}

/// Threads of a block of forward_row_shape at most: what leaves a thread registers for what it holds.
constexpr int most_forward_threads(int held) {
  return held <= 2 ? 1024 : 512;
}

/// More spills: each element takes four registers.
constexpr int most_backward_packs(int pack_size) {
  return pack_size >= 8 ? 2 : 4;
}

/// For a pass that sums columns in registers while it walks rows; blocks of up to 512 threads. Packs of `pack_size`
/// elements.
inline RowShape backward_row_shape(int64_t packs, int pack_size) {
  if (packs <= 32) {
    RowShape shape{.threads = 1};
    while (shape.threads < packs) shape.threads *= 2;
    shape.rows_per_block = 256 / shape.threads;
    return shape;
  }
  int most = most_backward_packs(pack_size);
  if (packs > 512 * most) return {.threads = 512, .held = 0};
  int held = packs <= 256 ? 1 : packs <= 512 * 2 ? 2 : 4;
  return {.threads = round_to_warps(ceil_div(packs, held)), .held = held};
}

/// Blocks that walk the rows; each leaves one row of column sums.
inline int backward_blocks(const CudaDevice& device, int64_t rows, const RowShape& shape) {
  int threads = shape.threads * shape.rows_per_block;
  int resident = threads >= 1024 ? 1 : 1024 / threads;
  int64_t full = static_cast<int64_t>(device.num_multiprocessors()) * (resident < 8 ? resident : 8);
  int64_t wanted = ceil_div(rows, shape.rows_per_block);
  return static_cast<int>(wanted < full ? wanted : full);
}

/// Calls body with the number of packs a thread holds as a compile-time constant: 1, 2 or, if that is `most`, 4.
template <int most, typename Body>
void dispatch_held(int held, Body&& body) {
  if (held == 1) return body(std::integral_constant<int, 1>{});
  if (most == 2 || held == 2) return body(std::integral_constant<int, 2>{});
  body(std::integral_constant<int, most>{});
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const void* base, int64_t index) {
  return static_cast<const Pack<T, N>*>(base)[index];
}
template <typename T, int N>
__device__ __forceinline__ void store_pack(void* base, int64_t index, const Pack<T, N>& pack) {
  static_cast<Pack<T, N>*>(base)[index] = pack;
}

/// Prefetches the thread's packs of a weight that all rows share (null: none), before wait_for_previous().
template <typename Pack, int kHeld>
__device__ __forceinline__ void prefetch_parameter(const void* values, int packs) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(Pack));  // packs; a thread of each line is enough
  if (values == nullptr || threadIdx.x % kLine != 0) return;
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = static_cast<int>(threadIdx.x + p * blockDim.x);
    if (at < packs) prefetch_to_l2(static_cast<const Pack*>(values) + at);
  }
}

/// x + residual, rounded.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> rounded_sum(const Pack<T, N>& x, const Pack<T, N>& residual) {
  Pack<T, N> sum;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sum.values[i] = from_float<T>(to_float(x.values[i]) + to_float(residual.values[i]));
  }
  return sum;
}

/// Each value's sum over the threads of one row, the same in all of them. `parts` has 32·K floats; a block's next call
/// takes other ones, and the one after may take these again. All threads of the block take part.
template <int K>
__device__ __forceinline__ void row_sums(float (&values)[K], float* parts) {
  int lanes = blockDim.x < 32 ? static_cast<int>(blockDim.x) : 32;
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], distance);
  }
  if (blockDim.x <= 32) return;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (lane == 0) parts[k * 32 + warp] = values[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] = warp_sum(lane < warps ? parts[k * 32 + lane] : 0.0f);
}

__device__ __forceinline__ float row_sum(float value, float* parts) {
  float values[1] = {value};
  row_sums(values, parts);
  return values[0];
}

/// Column sums of a block's threads to its row of `partial` ([blocks, width]). Blocks with several rows at once have at
/// most 32 packs a row and add them up in `shared` (32·N floats) first, in order.
template <int N, int kHeld>
__device__ __forceinline__ void store_column_sums(float (&sums)[kHeld][N], float* partial, int packs, float* shared) {
  float* to = partial + static_cast<int64_t>(blockIdx.x) * packs * N;
  if (blockDim.y == 1) {
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      int at = threadIdx.x + p * blockDim.x;
      for (int i = 0; at < packs && i < N; ++i) to[at * N + i] = sums[p][i];
    }
    return;
  }
  __syncthreads();
  for (int y = 0; y < static_cast<int>(blockDim.y); ++y) {
    for (int i = 0; static_cast<int>(threadIdx.y) == y && i < N; ++i) {
      float before = y == 0 ? 0.0f : shared[threadIdx.x * N + i];
      shared[threadIdx.x * N + i] = before + sums[0][i];
    }
    __syncthreads();
  }
  int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int i = thread; i < packs * N; i += blockDim.x * blockDim.y) to[i] = shared[i];
}

/// to[i] = Σ over parts of partial[part, i], onto what is there if kAccumulate. Blocks of (32, 32) threads.
template <bool kAccumulate>
__global__ void sum_partial_rows(const float* partial, int parts, int64_t width, float* to) {
  __shared__ float sums[32][33];
  int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  for (int part = threadIdx.y; column < width && part < parts; part += 32) sum += partial[part * width + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(sums[threadIdx.x][threadIdx.y]);
  column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.y;
  if (threadIdx.x == 0 && column < width) to[column] = kAccumulate ? to[column] + sum : sum;
}

inline void add_partial_rows(
    const CudaDevice& device, const float* partial, int parts, int64_t width, void* to, bool accumulate) {
  auto blocks = static_cast<unsigned>(ceil_div(width, 32));
  auto kernel = accumulate ? sum_partial_rows<true> : sum_partial_rows<false>;
  kernel<<<blocks, dim3(32, 32), 0, device.stream()>>>(partial, parts, width, static_cast<float*>(to));
  check_launch("sum_partial_rows");
}

}  // namespace weft::cuda
