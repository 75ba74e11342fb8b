#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/norm.h"

namespace weft::cuda {
namespace {

__device__ __forceinline__ float inverse_rms(float squares, int64_t width, double eps) {
  return 1.0f / sqrtf(squares / static_cast<float>(width) + static_cast<float>(eps));
}

template <typename T, int N>
__device__ __forceinline__ float sum_of_squares(const Pack<T, N>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += to_float(x.values[i]) * to_float(x.values[i]);
  return sum;
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> scaled(const RmsNormForwardArgs& args,
                                             const Pack<T, N>& x,
                                             const Pack<T, N>& weight,
                                             float inverse) {
  Pack<T, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float normed = to_float(x.values[i]) * inverse;
    if (args.round_before_weight) normed = to_float(from_float<T>(normed));
    y.values[i] = from_float<T>(normed * (args.weight_offset + to_float(weight.values[i])));
  }
  return y;
}

/// Norms the packs that a thread holds of its row.
template <typename T, int N, int kHeld>
__device__ __forceinline__ void norm_held(const RmsNormForwardArgs& args,
                                          int64_t row,
                                          int packs,
                                          Pack<T, N> (&x)[kHeld],
                                          const Pack<T, N> (&weight)[kHeld],
                                          float* parts) {
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (row < args.rows && threadIdx.x + p * blockDim.x < packs) squares += sum_of_squares(x[p]);
  }
  float inverse = inverse_rms(row_sum(squares, parts), args.width, args.eps);
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (row < args.rows && threadIdx.x + p * blockDim.x < packs) x[p] = scaled(args, x[p], weight[p], inverse);
  }
}

/// A row stays in registers from its load to its store. All loads stand before the first store, which might be to the
/// same memory as far as the compiler can tell. With `kTwice` x is normed by inner_weight first.
template <typename T, int N, int kHeld, bool kTwice>
__global__ void __launch_bounds__(most_forward_threads(kHeld))
    forward_rows(const __grid_constant__ RmsNormForwardArgs args, const void* inner_weight) {
  __shared__ float parts[32], inner_parts[kTwice ? 32 : 1];
  let_next_start();
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  int packs = static_cast<int>(args.width / N);
  prefetch_parameter<Pack<T, N>, kHeld>(args.weight, packs);
  if constexpr (kTwice) prefetch_parameter<Pack<T, N>, kHeld>(inner_weight, packs);
  wait_for_previous();
  int64_t first = row * packs;
  Pack<T, N> x[kHeld], residual[kHeld], weight[kHeld], inner[kHeld];
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = threadIdx.x + p * blockDim.x;
    if (row >= args.rows || at >= packs) continue;
    x[p] = load_pack<T, N>(args.x, first + at);
    if (args.residual != nullptr) residual[p] = load_pack<T, N>(args.residual, first + at);
    weight[p] = load_pack<T, N>(args.weight, at);
    if constexpr (kTwice) inner[p] = load_pack<T, N>(inner_weight, at);
  }
  if constexpr (kTwice) norm_held(args, row, packs, x, inner, inner_parts);
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = threadIdx.x + p * blockDim.x;
    if (row >= args.rows || at >= packs) continue;
    if (args.residual != nullptr) {
      x[p] = rounded_sum(x[p], residual[p]);
      if (args.sum != nullptr) store_pack(args.sum, first + at, x[p]);
    }
    squares += sum_of_squares(x[p]);
  }
  float inverse = inverse_rms(row_sum(squares, parts), args.width, args.eps);
  if (row >= args.rows) return;
  if (threadIdx.x == 0 && args.inv_rms != nullptr) args.inv_rms[row] = inverse;
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = threadIdx.x + p * blockDim.x;
    if (at < packs) store_pack(args.y, first + at, scaled(args, x[p], weight[p], inverse));
  }
}

/// Reads the row twice.
template <typename T, int N>
__global__ void __launch_bounds__(1024) forward_long_rows(const __grid_constant__ RmsNormForwardArgs args) {
  __shared__ float parts[32];
  let_next_start();
  wait_for_previous();
  int64_t row = blockIdx.x, packs = args.width / N;
  float squares = 0;
  for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
    Pack<T, N> x = load_pack<T, N>(args.x, row * packs + at);
    if (args.residual != nullptr) {
      x = rounded_sum(x, load_pack<T, N>(args.residual, row * packs + at));
      store_pack(args.sum, row * packs + at, x);
    }
    squares += sum_of_squares(x);
  }
  float inverse = inverse_rms(row_sum(squares, parts), args.width, args.eps);
  if (threadIdx.x == 0 && args.inv_rms != nullptr) args.inv_rms[row] = inverse;
  const void* input = args.residual != nullptr ? args.sum : args.x;
  for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
    Pack<T, N> x = load_pack<T, N>(input, row * packs + at);
    store_pack(args.y, row * packs + at, scaled(args, x, load_pack<T, N>(args.weight, at), inverse));
  }
}

template <typename T, int N>
void launch_forward(const RmsNormForwardArgs& args, CudaDevice& device) {
  RowShape shape = forward_row_shape(device, args.rows, args.width / N);
  auto blocks = static_cast<unsigned>(ceil_div(args.rows, shape.rows_per_block));
  dim3 threads(static_cast<unsigned>(shape.threads), static_cast<unsigned>(shape.rows_per_block));
  if (shape.held == 0) {
    launch(forward_long_rows<T, N>, blocks, threads, 0, device, args);
  } else {
    dispatch_held<4>(shape.held, [&](auto held) {
      launch(forward_rows<T, N, decltype(held)::value, false>, blocks, threads, 0, device, args, nullptr);
    });
  }
  check_launch("rms_norm");
}

template <typename T, int N>
void launch_forward_twice(const RmsNormTwiceArgs& args, CudaDevice& device) {
  const RmsNormForwardArgs& outer = args.outer;
  RowShape shape = forward_row_shape(device, outer.rows, outer.width / N);
  if (shape.held == 0) {  // too long for registers: y holds the inner norm meanwhile
    RmsNormForwardArgs inner = outer, rest = outer;
    inner.residual = nullptr;
    inner.weight = args.inner_weight;
    rest.x = outer.y;
    launch_forward<T, N>(inner, device);
    return launch_forward<T, N>(rest, device);
  }
  auto blocks = static_cast<unsigned>(ceil_div(outer.rows, shape.rows_per_block));
  dim3 threads(static_cast<unsigned>(shape.threads), static_cast<unsigned>(shape.rows_per_block));
  dispatch_held<4>(shape.held, [&](auto held) {
    auto kernel = forward_rows<T, N, decltype(held)::value, true>;
    launch(kernel, blocks, threads, 0, device, outer, args.inner_weight);
  });
  check_launch("rms_norm");
}

template <typename T>
bool has_whole_packs(const RmsNormForwardArgs& args) {
  return args.width % kPackSize<T> == 0 && is_aligned(args.x) && is_aligned(args.residual) && is_aligned(args.weight) &&
         is_aligned(args.sum) && is_aligned(args.y);
}

void forward(const RmsNormForwardArgs& args, const Stream& stream) {
  if (args.rows == 0 || args.width == 0) return;
  dispatch(args.dtype, "rms_norm", [&](auto zero) {
    using T = decltype(zero);
    if (has_whole_packs<T>(args)) return launch_forward<T, kPackSize<T>>(args, device_of(stream));
    launch_forward<T, 1>(args, device_of(stream));
  });
}

void forward_twice(const RmsNormTwiceArgs& args, const Stream& stream) {
  const RmsNormForwardArgs& outer = args.outer;
  if (outer.rows == 0 || outer.width == 0) return;
  dispatch(outer.dtype, "rms_norm", [&](auto zero) {
    using T = decltype(zero);
    bool is_wide = has_whole_packs<T>(outer) && is_aligned(args.inner_weight);
    if (is_wide) return launch_forward_twice<T, kPackSize<T>>(args, device_of(stream));
    launch_forward_twice<T, 1>(args, device_of(stream));
  });
}

/// Σ x² and Σ dy·w·x of some elements.
template <typename T, int N>
__device__ __forceinline__ void add_row_sums(const RmsNormBackwardArgs& args,
                                             const Pack<T, N>& x,
                                             const Pack<T, N>& dy,
                                             const Pack<T, N>& weight,
                                             float (&sums)[2]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float value = to_float(x.values[i]);
    sums[0] += value * value;
    sums[1] += to_float(dy.values[i]) * (args.weight_offset + to_float(weight.values[i])) * value;
  }
}

struct RowResult {
  float inverse, projection;
};

__device__ __forceinline__ RowResult row_result(const RmsNormBackwardArgs& args, const float (&sums)[2]) {
  float inverse = inverse_rms(sums[0], args.width, args.eps);
  return {inverse, sums[1] * inverse * inverse / static_cast<float>(args.width)};
}

/// With g = dy·w and x̂ = x·inverse: inverse·(g − x̂·mean(g·x̂)) and what else reached the sum.
template <typename T, int N>
__device__ __forceinline__ void store_gradient(const RmsNormBackwardArgs& args,
                                               int64_t index,
                                               const Pack<T, N>& x,
                                               const Pack<T, N>& dy,
                                               const Pack<T, N>& weight,
                                               const Pack<T, N>& dsum,
                                               RowResult row) {
  Pack<T, N> gradient;
  if (args.accumulate_input) gradient = load_pack<T, N>(args.dinput, index);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float g = to_float(dy.values[i]) * (args.weight_offset + to_float(weight.values[i]));
    float value = row.inverse * (g - to_float(x.values[i]) * row.projection);
    if (args.dsum != nullptr) value += to_float(dsum.values[i]);
    if (args.accumulate_input) value += to_float(gradient.values[i]);
    gradient.values[i] = from_float<T>(value);
  }
  store_pack(args.dinput, index, gradient);
}

/// Each block walks rows with its columns' sums for dweight in registers, and leaves them in its row of `partial`
/// (null: not wanted).
template <typename T, int N, int kHeld>
__global__ void __launch_bounds__(512)
    backward_rows(const __grid_constant__ RmsNormBackwardArgs args, float* __restrict__ partial) {
  __shared__ float parts[2][2 * 32];
  __shared__ float column_sums[32 * N];
  int packs = static_cast<int>(args.width / N), turn = 0;
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  float weight_sums[kHeld][N] = {};
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * blockDim.y; base < args.rows; base += step, turn ^= 1) {
    int64_t row = base + threadIdx.y, first = row * packs;
    Pack<T, N> x[kHeld], dy[kHeld], dsum[kHeld];
    float sums[2] = {0, 0};
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      int at = threadIdx.x + p * blockDim.x;
      if (row >= args.rows || at >= packs) continue;
      x[p] = load_pack<T, N>(args.input, first + at);
      dy[p] = load_pack<T, N>(args.dy, first + at);
      if (args.dsum != nullptr && args.dinput != nullptr) dsum[p] = load_pack<T, N>(args.dsum, first + at);
      add_row_sums(args, x[p], dy[p], load_pack<T, N>(args.weight, at), sums);
    }
    row_sums(sums, parts[turn]);
    RowResult result = row_result(args, sums);
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      int at = threadIdx.x + p * blockDim.x;
      if (row >= args.rows || at >= packs) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        weight_sums[p][i] += to_float(dy[p].values[i]) * to_float(x[p].values[i]) * result.inverse;
      }
      if (args.dinput == nullptr) continue;
      store_gradient(args, first + at, x[p], dy[p], load_pack<T, N>(args.weight, at), dsum[p], result);
    }
  }
  if (partial != nullptr) store_column_sums(weight_sums, partial, packs, column_sums);
}

/// Reads the rows twice and keeps the column sums in `partial` itself.
template <typename T, int N>
__global__ void __launch_bounds__(512)
    backward_long_rows(const __grid_constant__ RmsNormBackwardArgs args, float* __restrict__ partial) {
  __shared__ float parts[2][2 * 32];
  int64_t packs = args.width / N;
  int turn = 0;
  float* column_sums = partial + blockIdx.x * args.width;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x, turn ^= 1) {
    float sums[2] = {0, 0};
    for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
      Pack<T, N> x = load_pack<T, N>(args.input, row * packs + at), dy = load_pack<T, N>(args.dy, row * packs + at);
      add_row_sums(args, x, dy, load_pack<T, N>(args.weight, at), sums);
    }
    row_sums(sums, parts[turn]);
    RowResult result = row_result(args, sums);
    for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
      int64_t index = row * packs + at;
      Pack<T, N> x = load_pack<T, N>(args.input, index), dy = load_pack<T, N>(args.dy, index), dsum;
      for (int i = 0; partial != nullptr && i < N; ++i) {
        float before = row == blockIdx.x ? 0.0f : column_sums[at * N + i];
        column_sums[at * N + i] = before + to_float(dy.values[i]) * to_float(x.values[i]) * result.inverse;
      }
      if (args.dinput == nullptr) continue;
      if (args.dsum != nullptr) dsum = load_pack<T, N>(args.dsum, index);
      store_gradient(args, index, x, dy, load_pack<T, N>(args.weight, at), dsum, result);
    }
  }
}

/// Without dy only dsum flows on.
template <typename T, int N>
__global__ void pass_gradient(const __grid_constant__ RmsNormBackwardArgs args) {
  int64_t packs = args.rows * args.width / N, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < packs; at += step) {
    Pack<T, N> dsum, dinput;
    if (args.dsum != nullptr) dsum = load_pack<T, N>(args.dsum, at);
    if (args.accumulate_input) dinput = load_pack<T, N>(args.dinput, at);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float gradient = args.dsum != nullptr ? to_float(dsum.values[i]) : 0.0f;
      if (args.accumulate_input) gradient += to_float(dinput.values[i]);
      dinput.values[i] = from_float<T>(gradient);
    }
    store_pack(args.dinput, at, dinput);
  }
}

template <typename T, int N>
void launch_backward(const RmsNormBackwardArgs& args, CudaDevice& device) {
  if (args.dy == nullptr) {
    if (args.dinput == nullptr) return;
    pass_gradient<T, N><<<grid_for(device, args.rows * args.width / N, 256), 256, 0, device.stream()>>>(args);
    return check_launch("rms_norm backward");
  }
  RowShape shape = backward_row_shape(args.width / N, N);
  int blocks = backward_blocks(device, args.rows, shape);
  dim3 threads(static_cast<unsigned>(shape.threads), static_cast<unsigned>(shape.rows_per_block));
  DeviceBuffer<float> partial =
      args.dweight != nullptr ? DeviceBuffer<float>(device, blocks * args.width) : DeviceBuffer<float>();
  if (shape.held == 0) {
    backward_long_rows<T, N><<<blocks, threads, 0, device.stream()>>>(args, partial.data());
  } else {
    dispatch_held<most_backward_packs(N)>(shape.held, [&](auto held) {
      backward_rows<T, N, decltype(held)::value><<<blocks, threads, 0, device.stream()>>>(args, partial.data());
    });
  }
  check_launch("rms_norm backward");
  if (args.dweight == nullptr) return;
  add_partial_rows(device, partial.data(), blocks, args.width, args.dweight, args.accumulate_weight);
}

void backward(const RmsNormBackwardArgs& args, const Stream& stream) {
  if (args.width == 0) return;
  CudaDevice& device = device_of(stream);
  if (args.dweight != nullptr && !args.accumulate_weight && (args.rows == 0 || args.dy == nullptr)) {
    device.fill_zero(args.dweight, static_cast<size_t>(args.width) * sizeof(float));
  }
  if (args.rows == 0) return;
  dispatch(args.dtype, "rms_norm backward", [&](auto zero) {
    using T = decltype(zero);
    bool wide = args.width % kPackSize<T> == 0 && is_aligned(args.input) && is_aligned(args.weight) &&
                is_aligned(args.dy) && is_aligned(args.dsum) && is_aligned(args.dinput);
    if (wide) return launch_backward<T, kPackSize<T>>(args, device);
    launch_backward<T, 1>(args, device);
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

RmsNormKernels cuda_rms_norm_kernels() {
  return {.forward = cuda::forward, .forward_twice = cuda::forward_twice, .backward = cuda::backward};
}

}  // namespace weft
