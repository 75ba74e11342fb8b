#include "kernels/rope.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope_pairs.cuh"
#include "kernels/cuda/rope_parts.h"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;

/// Positions and frequencies of a few rows, as a kernel's parameter: decoding copies nothing to the device first.
struct FewRows {
  static constexpr int kMaxRows = 256, kMaxFrequencies = 256;
  int32_t positions[kMaxRows];
  double inverse_frequency[kMaxFrequencies];
};

/// Element `index` of [rows, half]. Angle, sine and cosine in double, as a position times a frequency may be large.
__device__ __forceinline__ void write_angle(
    int32_t position, double inverse_frequency, float* cos_sin, int64_t row, int i, int half) {
  double sine, cosine;
  sincos(position * inverse_frequency, &sine, &cosine);
  cos_sin[row * 2 * half + i] = static_cast<float>(cosine);
  cos_sin[row * 2 * half + half + i] = static_cast<float>(sine);
}

__global__ void table_of_few(const __grid_constant__ Varying<FewRows> few, float* cos_sin, int rows, int half) {
  let_next_start();
  wait_for_previous();
  int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= rows * half) return;
  int row = index / half, i = index % half;
  const FewRows& given = few.get();
  write_angle(given.positions[row], given.inverse_frequency[i], cos_sin, row, i, half);
}

__global__ void table_of_many(
    const int32_t* positions, const double* inverse_frequency, float* cos_sin, int64_t rows, int half) {
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < rows * half;
       index += step) {
    int64_t row = index / half;
    int i = static_cast<int>(index % half);
    write_angle(positions[row], inverse_frequency[i], cos_sin, row, i, half);
  }
}

void table(const RopeTableArgs& args, const Stream& stream) {
  if (args.dtype != DType::f32) fail_dtype("rope_table", args.dtype);
  require(args.rotary_dim % 2 == 0, "rope_table", "an even rotary_dim");
  int half = static_cast<int>(args.rotary_dim / 2);
  if (args.rows == 0 || half == 0) return;
  CudaDevice& device = device_of(stream);
  auto* cos_sin = static_cast<float*>(args.cos_sin);
  if (args.rows <= FewRows::kMaxRows && half <= FewRows::kMaxFrequencies) {
    FewRows given = {};
    for (int64_t row = 0; row < args.rows; ++row) given.positions[row] = args.positions[row];
    for (int i = 0; i < half; ++i) given.inverse_frequency[i] = args.inverse_frequency[i];
    int rows = static_cast<int>(args.rows);
    auto blocks = static_cast<unsigned>(ceil_div(static_cast<int64_t>(rows) * half, 64));
    launch(table_of_few, blocks, 64, 0, device, varying(device, given), cos_sin, rows, half);
  } else {
    DeviceBuffer<int32_t> positions = uploaded(device, args.positions, args.rows);
    DeviceBuffer<double> frequencies = uploaded(device, args.inverse_frequency, half);
    table_of_many<<<grid_for(device, args.rows * half, kThreads), kThreads, 0, device.stream()>>>(
        positions.data(), frequencies.data(), cos_sin, args.rows, half);
  }
  check_launch("rope_table");
}

/// Where the pairs of a head lie and how many a thread turns.
struct Layout {
  int64_t rows;
  int num_heads, head_dim, rotary_dim;
  int items;  // of a head
  float direction;
};

/// Threads along y take rows of their own, along x the items of all heads of a row.
template <typename T, int N, bool kInterleaved>
__global__ void __launch_bounds__(kThreads)
    rotate_rows(T* x, const float* cos_sin, const __grid_constant__ Layout layout) {
  let_next_start();
  wait_for_previous();
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= layout.rows) return;
  T* heads = x + row * layout.num_heads * layout.head_dim;
  const float* angles = cos_sin + row * layout.rotary_dim;
  for (int at = threadIdx.x; at < layout.num_heads * layout.items; at += blockDim.x) {
    T* head = heads + static_cast<int64_t>(at / layout.items) * layout.head_dim;
    turn_item<T, N, kInterleaved>(head, head, angles, at % layout.items, layout.rotary_dim / 2, layout.direction);
  }
}

template <typename T, int N, bool kInterleaved>
void launch_rotate(const RopeArgs& args, CudaDevice& device) {
  Layout layout{.rows = args.rows,
                .num_heads = static_cast<int>(args.num_heads),
                .head_dim = static_cast<int>(args.head_dim),
                .rotary_dim = static_cast<int>(args.rotary_dim),
                .items = static_cast<int>(args.rotary_dim / 2 / N),
                .direction = args.inverse ? -1.0f : 1.0f};
  int64_t row_threads = ceil_div(static_cast<int64_t>(layout.num_heads) * layout.items, 32) * 32;
  if (row_threads > kThreads) row_threads = kThreads;
  int64_t block_rows = kThreads / row_threads;
  // Few rows: a block each, to spread them.
  if (args.rows < 4 * static_cast<int64_t>(device.num_multiprocessors())) block_rows = 1;
  dim3 threads(static_cast<unsigned>(row_threads), static_cast<unsigned>(block_rows));
  auto blocks = static_cast<unsigned>(ceil_div(args.rows, block_rows));
  launch(rotate_rows<T, N, kInterleaved>,
         blocks,
         threads,
         0,
         device,
         static_cast<T*>(args.x),
         static_cast<const float*>(args.cos_sin),
         layout);
  check_launch("rope");
}

/// With N pairs a thread where all wide moves are aligned, else with one.
template <typename T, int N, bool kInterleaved>
void rotate_as(const RopeArgs& args, CudaDevice& device) {
  bool is_wide = args.rotary_dim / 2 % N == 0 && args.head_dim % kPackSize<T> == 0 && is_aligned(args.x) &&
                 is_aligned(args.cos_sin, sizeof(float) * N);
  if (is_wide) return launch_rotate<T, N, kInterleaved>(args, device);
  launch_rotate<T, 1, kInterleaved>(args, device);
}

void rotate(const RopeArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.num_heads == 0 || args.rotary_dim < 2) return;
  dispatch(args.dtype, "rope", [&](auto zero) {
    using T = decltype(zero);
    if (args.interleaved) return rotate_as<T, kPackSize<T> / 2, true>(args, device_of(stream));
    rotate_as<T, kPackSize<T>, false>(args, device_of(stream));
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

RopeKernels cuda_rope_kernels() {
  return {.table = cuda::table, .rotate = cuda::rotate, .rotate_into_cache = cuda::rotate_into_cache};
}

}  // namespace weft
