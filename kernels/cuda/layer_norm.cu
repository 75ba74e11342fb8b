#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_rows.cuh"
#include "kernels/norm.h"

namespace weft::cuda {
namespace {

struct RowStatistics {
  float mean, inverse;
};

__device__ __forceinline__ float inverse_deviation(float squares, int64_t width, double eps) {
  return 1.0f / sqrtf(squares / static_cast<float>(width) + static_cast<float>(eps));
}

template <typename T, int N>
__device__ __forceinline__ float sum_of(const Pack<T, N>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += to_float(x.values[i]);
  return sum;
}

template <typename T, int N>
__device__ __forceinline__ float squares_around(const Pack<T, N>& x, float mean) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += (to_float(x.values[i]) - mean) * (to_float(x.values[i]) - mean);
  return sum;
}

/// Mean and deviation of a row whose packs this thread holds. `parts` has two times 32 floats.
template <typename T, int N, int kHeld>
__device__ __forceinline__ RowStatistics
statistics_of(const Pack<T, N> (&x)[kHeld], int packs, int64_t width, bool subtract_mean, double eps, float* parts) {
  float mean = 0, squares = 0;
  if (subtract_mean) {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      if (threadIdx.x + p * blockDim.x < packs) sum += sum_of(x[p]);
    }
    mean = row_sum(sum, parts) / static_cast<float>(width);
  }
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    if (threadIdx.x + p * blockDim.x < packs) squares += squares_around(x[p], mean);
  }
  return {mean, inverse_deviation(row_sum(squares, parts + 32), width, eps)};
}

/// The weight's pack (or ones) and the bias's (or zeros) for a row.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> parameter(const void* values, int64_t index, float missing) {
  if (values != nullptr) return load_pack<T, N>(values, index);
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.values[i] = from_float<T>(missing);
  return pack;
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> normed(const Pack<T, N>& x,
                                             const Pack<T, N>& weight,
                                             const Pack<T, N>& bias,
                                             RowStatistics row) {
  Pack<T, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float value = (to_float(x.values[i]) - row.mean) * row.inverse;
    y.values[i] = from_float<T>(value * to_float(weight.values[i]) + to_float(bias.values[i]));
  }
  return y;
}

/// A row stays in registers from its load to its store. All loads stand before the first store, which might be to the
/// same memory as far as the compiler can tell. `args.groups` lies on the device here and below.
template <typename T, int N, int kHeld>
__global__ void __launch_bounds__(most_forward_threads(kHeld))
    forward_rows(const __grid_constant__ LayerNormForwardArgs args) {
  __shared__ float parts[2 * 32];
  let_next_start();
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  bool is_row = row < args.rows;
  int packs = static_cast<int>(args.width / N), own_packs = is_row ? packs : 0;
  int64_t first = row * packs;
  if (args.groups == nullptr) {
    prefetch_parameter<Pack<T, N>, kHeld>(args.weight, packs);
    prefetch_parameter<Pack<T, N>, kHeld>(args.bias, packs);
  }
  wait_for_previous();
  int64_t group = is_row && args.groups != nullptr ? static_cast<int64_t>(args.groups[row]) * packs : 0;
  Pack<T, N> x[kHeld], residual[kHeld], weight[kHeld];
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = threadIdx.x + p * blockDim.x;
    if (at >= own_packs) continue;
    x[p] = load_pack<T, N>(args.x, first + at);
    if (args.residual != nullptr) residual[p] = load_pack<T, N>(args.residual, first + at);
    weight[p] = parameter<T, N>(args.weight, group + at, 1);
  }
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = threadIdx.x + p * blockDim.x;
    if (at >= own_packs) continue;
    if (args.residual != nullptr) {
      x[p] = rounded_sum(x[p], residual[p]);
      if (args.sum != nullptr) store_pack(args.sum, first + at, x[p]);
    }
  }
  RowStatistics result = statistics_of(x, own_packs, args.width, args.subtract_mean, args.eps, parts);
#pragma unroll
  for (int p = 0; p < kHeld; ++p) {
    int at = threadIdx.x + p * blockDim.x;
    if (at >= own_packs) continue;
    store_pack(args.y, first + at, normed(x[p], weight[p], parameter<T, N>(args.bias, group + at, 0), result));
  }
}

/// Reads the row three times.
template <typename T, int N>
__global__ void __launch_bounds__(1024) forward_long_rows(const __grid_constant__ LayerNormForwardArgs args) {
  __shared__ float parts[2 * 32];
  let_next_start();
  wait_for_previous();
  int64_t row = blockIdx.x, packs = args.width / N;
  auto input = [&](int64_t at) {
    Pack<T, N> x = load_pack<T, N>(args.x, row * packs + at);
    return args.residual == nullptr ? x : rounded_sum(x, load_pack<T, N>(args.residual, row * packs + at));
  };
  float sum = 0, squares = 0;
  for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) sum += sum_of(input(at));
  float mean = row_sum(sum, parts) / static_cast<float>(args.width);
  if (!args.subtract_mean) mean = 0;
  for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) squares += squares_around(input(at), mean);
  RowStatistics result{mean, inverse_deviation(row_sum(squares, parts + 32), args.width, args.eps)};
  int64_t group = args.groups != nullptr ? static_cast<int64_t>(args.groups[row]) * packs : 0;
  for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
    Pack<T, N> x = input(at), weight = parameter<T, N>(args.weight, group + at, 1);
    if (args.residual != nullptr && args.sum != nullptr) store_pack(args.sum, row * packs + at, x);
    store_pack(args.y, row * packs + at, normed(x, weight, parameter<T, N>(args.bias, group + at, 0), result));
  }
}

template <typename T, int N>
void launch_forward(const LayerNormForwardArgs& args, CudaDevice& device) {
  RowShape shape = forward_row_shape(device, args.rows, args.width / N);
  auto blocks = static_cast<unsigned>(ceil_div(args.rows, shape.rows_per_block));
  dim3 threads(static_cast<unsigned>(shape.threads), static_cast<unsigned>(shape.rows_per_block));
  if (shape.held == 0) {
    launch(forward_long_rows<T, N>, blocks, threads, 0, device, args);
  } else {
    dispatch_held<4>(shape.held, [&](auto held) {
      launch(forward_rows<T, N, decltype(held)::value>, blocks, threads, 0, device, args);
    });
  }
  check_launch("layer_norm");
}

/// The groups on the device; null without.
template <typename Args>
DeviceBuffer<int32_t> uploaded_groups(const Args& args, CudaDevice& device) {
  return args.groups != nullptr ? uploaded(device, args.groups, args.rows) : DeviceBuffer<int32_t>();
}

void forward(const LayerNormForwardArgs& host_args, const Stream& stream) {
  if (host_args.rows == 0 || host_args.width == 0) return;
  CudaDevice& device = device_of(stream);
  DeviceBuffer<int32_t> groups = uploaded_groups(host_args, device);
  LayerNormForwardArgs args = host_args;
  args.groups = groups.data();
  dispatch(args.dtype, "layer_norm", [&](auto zero) {
    using T = decltype(zero);
    bool wide = args.width % kPackSize<T> == 0 && is_aligned(args.x) && is_aligned(args.residual) &&
                is_aligned(args.weight) && is_aligned(args.bias) && is_aligned(args.sum) && is_aligned(args.y);
    if (wide) return launch_forward<T, kPackSize<T>>(args, device);
    launch_forward<T, 1>(args, device);
  });
}

/// Σ g and Σ g·x̂ of some elements, g = dy·w.
template <typename T, int N>
__device__ __forceinline__ void add_gradient_sums(
    const Pack<T, N>& x, const Pack<T, N>& dy, const Pack<T, N>& weight, RowStatistics row, float (&sums)[2]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float g = to_float(dy.values[i]) * to_float(weight.values[i]);
    sums[0] += g;
    sums[1] += g * (to_float(x.values[i]) - row.mean) * row.inverse;
  }
}

/// inverse·(g − mean(g) − x̂·mean(g·x̂)); `means` are those two.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> input_gradient(
    const Pack<T, N>& x, const Pack<T, N>& dy, const Pack<T, N>& weight, RowStatistics row, const float (&means)[2]) {
  Pack<T, N> gradient;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float g = to_float(dy.values[i]) * to_float(weight.values[i]);
    float value = (to_float(x.values[i]) - row.mean) * row.inverse;
    gradient.values[i] = from_float<T>(row.inverse * (g - means[0] - value * means[1]));
  }
  return gradient;
}

/// From sums to what input_gradient takes.
__device__ __forceinline__ void take_means(const LayerNormBackwardArgs& args, float (&sums)[2]) {
  sums[0] = args.subtract_mean ? sums[0] / static_cast<float>(args.width) : 0.0f;
  sums[1] /= static_cast<float>(args.width);
}

/// A row's part of dweight and dbias, where rows have weights of their own.
template <typename T, int N>
__device__ __forceinline__ void add_to_group(
    const LayerNormBackwardArgs& args, int64_t index, const Pack<T, N>& x, const Pack<T, N>& dy, RowStatistics row) {
  for (int i = 0; i < N; ++i) {
    float gradient = to_float(dy.values[i]);
    float value = (to_float(x.values[i]) - row.mean) * row.inverse;
    if (args.dweight != nullptr) atomicAdd(static_cast<float*>(args.dweight) + index * N + i, gradient * value);
    if (args.dbias != nullptr) atomicAdd(static_cast<float*>(args.dbias) + index * N + i, gradient);
  }
}

/// Rows of sums over a block's rows ([blocks, width]), null: not wanted.
struct PartialSums {
  float* weight = nullptr;
  float* bias = nullptr;
};

/// Each block walks rows with its columns' sums for dweight and dbias in registers, and leaves them in its row of
/// `partial`. With groups the gradients are added up by atomics, in no certain order.
template <typename T, int N, int kHeld>
__global__ void __launch_bounds__(512)
    backward_rows(const __grid_constant__ LayerNormBackwardArgs args, PartialSums partial) {
  __shared__ float parts[4 * 32];
  __shared__ float column_sums[32 * N];
  int packs = static_cast<int>(args.width / N);
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  bool has_groups = args.groups != nullptr;
  float weight_sums[kHeld][N] = {}, bias_sums[kHeld][N] = {};
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * blockDim.y; base < args.rows; base += step) {
    int64_t row = base + threadIdx.y, first = row * packs;
    int own_packs = row < args.rows ? packs : 0;
    int64_t group = has_groups && row < args.rows ? static_cast<int64_t>(args.groups[row]) * packs : 0;
    Pack<T, N> x[kHeld], dy[kHeld];
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      int at = threadIdx.x + p * blockDim.x;
      if (at >= own_packs) continue;
      x[p] = load_pack<T, N>(args.input, first + at);
      dy[p] = load_pack<T, N>(args.dy, first + at);
    }
    RowStatistics result = statistics_of(x, own_packs, args.width, args.subtract_mean, args.eps, parts);
    float sums[2] = {0, 0};
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      int at = threadIdx.x + p * blockDim.x;
      if (at >= own_packs) continue;
      if (has_groups) add_to_group(args, group + at, x[p], dy[p], result);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        weight_sums[p][i] += to_float(dy[p].values[i]) * (to_float(x[p].values[i]) - result.mean) * result.inverse;
        bias_sums[p][i] += to_float(dy[p].values[i]);
      }
      add_gradient_sums(x[p], dy[p], parameter<T, N>(args.weight, group + at, 1), result, sums);
    }
    row_sums(sums, parts + 2 * 32);
    take_means(args, sums);
#pragma unroll
    for (int p = 0; p < kHeld; ++p) {
      int at = threadIdx.x + p * blockDim.x;
      if (at >= own_packs || args.dinput == nullptr) continue;
      Pack<T, N> weight = parameter<T, N>(args.weight, group + at, 1);
      store_pack(args.dinput, first + at, input_gradient(x[p], dy[p], weight, result, sums));
    }
  }
  if (partial.weight != nullptr) store_column_sums(weight_sums, partial.weight, packs, column_sums);
  if (partial.bias != nullptr) store_column_sums(bias_sums, partial.bias, packs, column_sums);
}

/// Adds a row's pack to the block's column sums in memory; the first row begins them.
template <typename T, int N>
__device__ __forceinline__ void add_column_sums(const PartialSums& partial,
                                                int64_t index,
                                                bool is_first,
                                                const Pack<T, N>& x,
                                                const Pack<T, N>& dy,
                                                RowStatistics row) {
  for (int i = 0; i < N; ++i) {
    float gradient = to_float(dy.values[i]);
    float product = gradient * (to_float(x.values[i]) - row.mean) * row.inverse;
    float* weight = partial.weight + index * N + i;
    float* bias = partial.bias + index * N + i;
    if (partial.weight != nullptr) *weight = is_first ? product : *weight + product;
    if (partial.bias != nullptr) *bias = is_first ? gradient : *bias + gradient;
  }
}

/// Reads the rows again for each sum and keeps the column sums in `partial` itself.
template <typename T, int N>
__global__ void __launch_bounds__(512)
    backward_long_rows(const __grid_constant__ LayerNormBackwardArgs args, PartialSums partial) {
  __shared__ float parts[4 * 32];
  int64_t packs = args.width / N;
  for (int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    int64_t first = row * packs;
    int64_t group = args.groups != nullptr ? static_cast<int64_t>(args.groups[row]) * packs : 0;
    float sum = 0, squares = 0, sums[2] = {0, 0};
    for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) sum += sum_of(load_pack<T, N>(args.input, first + at));
    float mean = row_sum(sum, parts) / static_cast<float>(args.width);
    if (!args.subtract_mean) mean = 0;
    for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
      squares += squares_around(load_pack<T, N>(args.input, first + at), mean);
    }
    RowStatistics result{mean, inverse_deviation(row_sum(squares, parts + 32), args.width, args.eps)};
    for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
      Pack<T, N> x = load_pack<T, N>(args.input, first + at), dy = load_pack<T, N>(args.dy, first + at);
      if (args.groups != nullptr) {
        add_to_group(args, group + at, x, dy, result);
      } else {
        add_column_sums(partial, blockIdx.x * packs + at, row == blockIdx.x, x, dy, result);
      }
      add_gradient_sums(x, dy, parameter<T, N>(args.weight, group + at, 1), result, sums);
    }
    row_sums(sums, parts + 2 * 32);
    take_means(args, sums);
    for (int64_t at = threadIdx.x; args.dinput != nullptr && at < packs; at += blockDim.x) {
      Pack<T, N> x = load_pack<T, N>(args.input, first + at), dy = load_pack<T, N>(args.dy, first + at);
      Pack<T, N> weight = parameter<T, N>(args.weight, group + at, 1);
      store_pack(args.dinput, first + at, input_gradient(x, dy, weight, result, sums));
    }
  }
}

template <typename T, int N>
void launch_backward(const LayerNormBackwardArgs& args, CudaDevice& device) {
  RowShape shape = backward_row_shape(args.width / N, N);
  int blocks = backward_blocks(device, args.rows, shape);
  dim3 threads(static_cast<unsigned>(shape.threads), static_cast<unsigned>(shape.rows_per_block));
  auto partial_for = [&](void* wanted) {
    bool is_summed = wanted != nullptr && args.groups == nullptr;
    return is_summed ? DeviceBuffer<float>(device, blocks * args.width) : DeviceBuffer<float>();
  };
  DeviceBuffer<float> weight = partial_for(args.dweight), bias = partial_for(args.dbias);
  PartialSums partial{.weight = weight.data(), .bias = bias.data()};
  if (shape.held == 0) {
    backward_long_rows<T, N><<<blocks, threads, 0, device.stream()>>>(args, partial);
  } else {
    dispatch_held<most_backward_packs(N)>(shape.held, [&](auto held) {
      backward_rows<T, N, decltype(held)::value><<<blocks, threads, 0, device.stream()>>>(args, partial);
    });
  }
  check_launch("layer_norm backward");
  if (partial.weight != nullptr) add_partial_rows(device, partial.weight, blocks, args.width, args.dweight, true);
  if (partial.bias != nullptr) add_partial_rows(device, partial.bias, blocks, args.width, args.dbias, true);
}

void backward(const LayerNormBackwardArgs& host_args, const Stream& stream) {
  if (host_args.rows == 0 || host_args.width == 0) return;
  CudaDevice& device = device_of(stream);
  DeviceBuffer<int32_t> groups = uploaded_groups(host_args, device);
  LayerNormBackwardArgs args = host_args;
  args.groups = groups.data();
  dispatch(args.dtype, "layer_norm backward", [&](auto zero) {
    using T = decltype(zero);
    bool wide = args.width % kPackSize<T> == 0 && is_aligned(args.input) && is_aligned(args.weight) &&
                is_aligned(args.dy) && is_aligned(args.dinput);
    if (wide) return launch_backward<T, kPackSize<T>>(args, device);
    launch_backward<T, 1>(args, device);
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

LayerNormKernels cuda_layer_norm_kernels() {
  return {.forward = cuda::forward, .backward = cuda::backward};
}

}  // namespace weft
