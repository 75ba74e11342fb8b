// Products with a weight: few rows by kernels of our own (small_product.cu, quantized_stream.cu, quantized_product.cu),
// the others by cuBLASLt, for which quantized weights are widened. Weights stay row-major otherwise.
#include "kernels/linear.h"

#include <algorithm>

#include "kernels/cuda/activation_math.cuh"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/machine_peaks.h"
#include "kernels/cuda/quantized.cuh"
#include "kernels/cuda/quantized_stream.h"
#include "kernels/cuda/small_product.cuh"
#include "kernels/quantized_shape.h"

namespace weft::cuda {
namespace {

constexpr int kThreads = 256;
/// A block of the column sums: lanes take neighbouring columns, warps different rows.
constexpr int kSumLanes = 32, kSumWarps = 8;
/// Scratch for a quantized weight that is widened.
constexpr int64_t kWidenedBytes = int64_t{256} << 20;
/// Rows that are worth a block of their own.
constexpr int64_t kMinSumRows = 64;

void check_dtype(const char* kernel, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::bf16) fail_dtype(kernel, dtype);
}

/// y = act(y + bias) in place, y [rows, columns] as packs of N; bias of type B or null.
template <typename Y, typename B, int N>
__global__ void add_bias_and_activate(Y* y, const B* bias, int64_t num_packs, int64_t columns, Activation activation) {
  let_next_start();
  wait_for_previous();
  int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < num_packs; i += stride) {
    Pack<Y, N> values = reinterpret_cast<Pack<Y, N>*>(y)[i];
    int64_t column = bias != nullptr ? i * N % columns : 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float value = to_float(values.values[j]);
      if (bias != nullptr) value += to_float(bias[column + j]);
      values.values[j] = from_float<Y>(activate(value, activation));
    }
    reinterpret_cast<Pack<Y, N>*>(y)[i] = values;
  }
}

template <typename Y, typename B>
void finish(const LinearForwardArgs& args, const LinearWeight& weight, const void* bias, CudaDevice& device) {
  constexpr int kSize = kPackSize<Y>;
  int64_t count = args.rows * weight.out_features;
  Y* y = static_cast<Y*>(weight.y);
  const B* typed_bias = static_cast<const B*>(bias);
  if (weight.out_features % kSize == 0 && is_aligned(y)) {
    unsigned blocks = grid_for(device, count / kSize, kThreads);
    launch(add_bias_and_activate<Y, B, kSize>,
           blocks,
           kThreads,
           0,
           device,
           y,
           typed_bias,
           count / kSize,
           weight.out_features,
           args.activation);
  } else {
    unsigned blocks = grid_for(device, count, kThreads);
    launch(add_bias_and_activate<Y, B, 1>,
           blocks,
           kThreads,
           0,
           device,
           y,
           typed_bias,
           count,
           weight.out_features,
           args.activation);
  }
  check_launch("linear");
}

void finish(const LinearForwardArgs& args, const LinearWeight& weight, const void* bias, CudaDevice& device) {
  if (bias == nullptr && args.activation == Activation::identity) return;
  if (args.dtype == DType::f32) return finish<float, float>(args, weight, bias, device);
  if (args.y_dtype == DType::f32) return finish<float, bf16>(args, weight, bias, device);
  finish<bf16, bf16>(args, weight, bias, device);
}

/// Many rows: cuBLASLt, which adds a bias of y's dtype itself. Like the CPU's for row-major weights, a bf16 result is
/// rounded once before its activation and once behind it.
void multiply_rows(const LinearForwardArgs& args, const LinearWeight& weight, CudaDevice& device) {
  if (weight.out_features == 0) return;
  Product product{.a = args.x,
                  .b = weight.weight,
                  .c = weight.y,
                  .bias = weight.bias,
                  .m = args.rows,
                  .n = weight.out_features,
                  .k = args.in_features,
                  .transpose_b = true,
                  .dtype = args.dtype,
                  .c_dtype = args.y_dtype};
  const void* left_bias = bias_fits(product) ? nullptr : weight.bias;
  if (left_bias != nullptr) product.bias = nullptr;
  if (product.k > 0) {
    device.blas().multiply(product, device);
  } else {
    device.fill_zero(weight.y, static_cast<size_t>(product.m * product.n) * dtype_bytes(args.y_dtype));
    left_bias = weight.bias;
  }
  finish(args, weight, left_bias, device);
}

/// Many rows with a quantized weight, of which as much is widened at a time as scratch memory may hold.
void multiply_widened(const LinearForwardArgs& args, const LinearWeight& weight, CudaDevice& device) {
  auto element_bytes = static_cast<int64_t>(dtype_bytes(args.dtype));
  auto y_bytes = static_cast<int64_t>(dtype_bytes(args.y_dtype));
  int64_t row_bytes = std::max<int64_t>(1, args.in_features) * element_bytes;
  int64_t most = std::max<int64_t>(1, kWidenedBytes / row_bytes / kQuantizedPanelWidth) * kQuantizedPanelWidth;
  bool is_whole = weight.out_features <= most;
  int64_t block = std::min(most, weight.out_features);
  DeviceBuffer<std::byte> widened(device, block * row_bytes);
  DeviceBuffer<std::byte> part =
      is_whole ? DeviceBuffer<std::byte>() : DeviceBuffer<std::byte>(device, args.rows * block * y_bytes);
  for (int64_t begin = 0; begin < weight.out_features; begin += block) {
    int64_t count = std::min(block, weight.out_features - begin);
    widen_quantized_rows({.packed = weight.weight,
                          .rows = widened.data(),
                          .row_begin = begin,
                          .num_rows = count,
                          .in_features = args.in_features,
                          .dtype = args.dtype,
                          .layout = weight.layout},
                         device);
    LinearWeight rows{.weight = widened.data(), .bias = weight.bias, .y = weight.y, .out_features = count};
    if (weight.bias != nullptr) rows.bias = static_cast<const std::byte*>(weight.bias) + begin * element_bytes;
    if (!is_whole) rows.y = part.data();
    multiply_rows(args, rows, device);
    if (is_whole) continue;
    device.copy_rows(static_cast<std::byte*>(weight.y) + begin * y_bytes,
                     static_cast<size_t>(weight.out_features * y_bytes),
                     part.data(),
                     static_cast<size_t>(count * y_bytes),
                     static_cast<size_t>(count * y_bytes),
                     static_cast<size_t>(args.rows));
  }
}

void forward_quantized(const LinearForwardArgs& args, CudaDevice& device) {
  if (args.rows <= kMaxQuantizedRows) return quantized_product(args, device);
  for (const LinearWeight& weight : args.weights) multiply_widened(args, weight, device);
}

void forward_row_major(const LinearForwardArgs& args, CudaDevice& device) {
  if (small_product(args, device)) return;
  for (const LinearWeight& weight : args.weights) multiply_rows(args, weight, device);
}

void linear_forward(const LinearForwardArgs& args, const Stream& stream) {
  check_dtype("linear", args.dtype);
  require(args.y_dtype == args.dtype || args.y_dtype == DType::f32, "linear", "y in the dtype of x or in f32");
  for (const LinearWeight& weight : args.weights) {
    require(weight.layout != Layout::packed, "linear", "row-major or quantized weights");
  }
  if (args.rows == 0) return;
  CudaDevice& device = device_of(stream);
  split_quantized(
      args,
      [&](const LinearForwardArgs& part) { forward_quantized(part, device); },
      [&](const LinearForwardArgs& part) { forward_row_major(part, device); });
}

void linear_backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
  check_dtype("linear backward", args.dtype);
  if (args.rows == 0 || args.in_features == 0) return;
  CudaDevice& device = device_of(stream);
  if (args.out_features == 0) {
    if (args.accumulate) return;
    return device.fill_zero(args.dx, static_cast<size_t>(args.rows * args.in_features) * dtype_bytes(args.dtype));
  }
  device.blas().multiply({.a = args.dy,
                          .b = args.weight,
                          .c = args.dx,
                          .m = args.rows,
                          .n = args.in_features,
                          .k = args.out_features,
                          .dtype = args.dtype,
                          .c_dtype = args.dtype,
                          .accumulate = args.accumulate},
                         device);
}

/// sums[column] (of chunk blockIdx.y) = the sum of a column of dy over the chunk's rows. A thread has N neighbouring
/// columns and every kSumWarps-th row; the order of additions is always the same.
template <typename T, int N>
__global__ void __launch_bounds__(kSumLanes* kSumWarps)
    column_sums(const T* dy, float* sums, int64_t rows, int64_t columns, int64_t chunk_rows, bool accumulate) {
  __shared__ float parts[kSumWarps][kSumLanes * N];
  int64_t first_column = static_cast<int64_t>(blockIdx.x) * kSumLanes * N;
  int64_t column = first_column + threadIdx.x * N;
  int64_t begin = blockIdx.y * chunk_rows, end = min(rows, begin + chunk_rows);
  float mine[N] = {};
  if (column < columns) {
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += kSumWarps) {
      Pack<T, N> values = *reinterpret_cast<const Pack<T, N>*>(dy + row * columns + column);
#pragma unroll
      for (int j = 0; j < N; ++j) mine[j] += to_float(values.values[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) parts[threadIdx.y][threadIdx.x * N + j] = mine[j];
  __syncthreads();
  for (int i = threadIdx.y * kSumLanes + threadIdx.x; i < kSumLanes * N; i += kSumLanes * kSumWarps) {
    if (first_column + i >= columns) break;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kSumWarps; ++warp) sum += parts[warp][i];
    float* result = sums + blockIdx.y * columns + first_column + i;
    *result = accumulate ? *result + sum : sum;
  }
}

/// Adds up what column_sums left for each chunk.
__global__ void join_sums(const float* parts, float* sums, int64_t chunks, int64_t columns, bool accumulate) {
  int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  float sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += parts[chunk * columns + column];
  sums[column] = accumulate ? sums[column] + sum : sum;
}

/// With several chunks a second kernel joins them.
template <typename T, int N>
void launch_column_sums(const LinearBackwardWeightArgs& args, CudaDevice& device) {
  int64_t strips = ceil_div(args.out_features, kSumLanes * N);
  int64_t wanted = ceil_div(int64_t{4} * device.num_multiprocessors(), strips);
  int64_t chunk_rows = ceil_div(args.rows, std::min(wanted, ceil_div(args.rows, kMinSumRows)));
  int64_t chunks = ceil_div(args.rows, chunk_rows);
  auto* result = static_cast<float*>(args.dbias);
  DeviceBuffer<float> parts =
      chunks > 1 ? DeviceBuffer<float>(device, chunks * args.out_features) : DeviceBuffer<float>();
  dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(chunks));
  column_sums<T, N><<<grid, dim3(kSumLanes, kSumWarps), 0, device.stream()>>>(static_cast<const T*>(args.dy),
                                                                              chunks > 1 ? parts.data() : result,
                                                                              args.rows,
                                                                              args.out_features,
                                                                              chunk_rows,
                                                                              chunks == 1 && args.accumulate_bias);
  check_launch("linear backward");
  if (chunks == 1) return;
  join_sums<<<static_cast<unsigned>(ceil_div(args.out_features, kThreads)), kThreads, 0, device.stream()>>>(
      parts.data(), result, chunks, args.out_features, args.accumulate_bias);
  check_launch("linear backward");
}

void backward_bias(const LinearBackwardWeightArgs& args, CudaDevice& device) {
  if (args.out_features == 0) return;
  if (args.rows == 0) {
    if (!args.accumulate_bias) device.fill_zero(args.dbias, static_cast<size_t>(args.out_features) * sizeof(float));
    return;
  }
  dispatch(args.dtype, "linear backward", [&](auto zero) {
    using T = decltype(zero);
    bool whole = args.out_features % kPackSize<T> == 0 && is_aligned(args.dy);
    whole ? launch_column_sums<T, kPackSize<T>>(args, device) : launch_column_sums<T, 1>(args, device);
  });
}

void backward_weight_product(const LinearBackwardWeightArgs& args, CudaDevice& device) {
  int64_t count = args.out_features * args.in_features;
  if (count == 0) return;
  if (args.rows == 0) {
    if (!args.accumulate_weight) device.fill_zero(args.dw, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  device.blas().multiply({.a = args.dy,
                          .b = args.x,
                          .c = args.dw,
                          .m = args.out_features,
                          .n = args.in_features,
                          .k = args.rows,
                          .transpose_a = true,
                          .dtype = args.dtype,
                          .c_dtype = DType::f32,
                          .accumulate = args.accumulate_weight},
                         device);
}

void linear_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
  check_dtype("linear backward", args.dtype);
  CudaDevice& device = device_of(stream);
  if (args.dw != nullptr) backward_weight_product(args, device);
  if (args.dbias != nullptr) backward_bias(args, device);
}

bool linear_gated_forward(const GatedLinearArgs& args, const Stream& stream) {
  CudaDevice& device = device_of(stream);
  if (is_quantized(args.layout)) return quantized_gated_stream(args, device);
  return args.layout == Layout::row_major && small_gated_product(args, device);
}

MachinePeaks machine_peaks(DType dtype, const Stream& stream) {
  return measure_cuda_peaks(dtype, device_of(stream));
}

/// Only quantized weights are packed.
size_t packed_bytes(int64_t out_features, int64_t in_features, DType dtype, Layout layout) {
  return is_quantized(layout) ? quantized_weight_bytes(out_features, in_features, dtype, layout) : 0;
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

LinearKernels cuda_linear_kernels() {
  return {.forward = cuda::linear_forward,
          .gated_forward = cuda::linear_gated_forward,
          .backward_input = cuda::linear_backward_input,
          .backward_weight = cuda::linear_backward_weight,
          .packed_bytes = cuda::packed_bytes,
          .pack = nullptr,  // kernels/host_packing.h
          .unpack_rows = cuda::unpack_quantized_rows,
          .machine_peaks = cuda::machine_peaks};
}

}  // namespace weft
