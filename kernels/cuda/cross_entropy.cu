#include "kernels/cross_entropy.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packs.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kSize = 4;

/// Calls body.template run<N>(column) for the row of `columns` elements that begins at element `begin` of an array:
/// packs where the element's number in the array is a multiple of kSize, single elements at the ends (or everywhere
/// unless the array fits packs). The threads of the block share the row.
template <typename Body>
__device__ __forceinline__ void for_row(int64_t begin, int64_t columns, bool fits, Body& body) {
  int64_t head = fits ? (kSize - begin % kSize) % kSize : columns;
  if (head > columns) head = columns;
  for (int64_t column = threadIdx.x; column < head; column += kThreads) body.template run<1>(column);
  int64_t packed_end = head + (columns - head) / kSize * kSize;
#pragma unroll 2
  for (int64_t column = head + int64_t{threadIdx.x} * kSize; column < packed_end; column += kThreads * kSize) {
    body.template run<kSize>(column);
  }
  for (int64_t column = packed_end + threadIdx.x; column < columns; column += kThreads) body.template run<1>(column);
}

/// Σ exp(x − maximum) of what was seen so far, rescaled whenever the maximum rises.
struct RunningSum {
  float maximum = -INFINITY;
  float sum = 0;

  template <int N>
  __device__ __forceinline__ void add(const float (&values)[N]) {
    float largest = values[0];
#pragma unroll
    for (int k = 1; k < N; ++k) largest = fmaxf(largest, values[k]);
    if (largest > maximum) {
      sum *= maximum == -INFINITY ? 1.0f : expf(maximum - largest);
      maximum = largest;
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      // Nothing but -infinity (or NaN) so far: no difference of infinities.
      sum += values[k] == -INFINITY ? 0.0f : expf(values[k] - maximum);
    }
  }
};

template <bool kIsCapped>
struct StatisticsRow {
  float* logits;
  float cap, inverse_cap;
  RunningSum running = {};

  template <int N>
  __device__ __forceinline__ void run(int64_t column) {
    float values[N];
    load_floats(logits + column, values);
    if constexpr (kIsCapped) {
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = cap * tanhf(values[k] * inverse_cap);
      store_floats(logits + column, values);
    }
    running.add(values);
  }
};

struct Statistics {
  float* logits;
  const int32_t* targets;
  float* maximum;
  float* sum_exp;
  float* target_logit;
  int64_t columns, column_begin;
  float cap;
  bool fits;
};

/// A block a row.
template <bool kIsCapped>
__global__ void __launch_bounds__(kThreads) statistics_kernel(Statistics args) {
  __shared__ float shared[33];
  int64_t row = blockIdx.x, begin = row * args.columns;
  StatisticsRow<kIsCapped> statistics{args.logits + begin, args.cap, 1.0f / args.cap};
  for_row(begin, args.columns, args.fits, statistics);
  const RunningSum& own = statistics.running;
  float maximum = block_max(own.maximum, shared);
  float scale = own.maximum == -INFINITY ? 1.0f : expf(own.maximum - maximum);
  float sum = block_sum(own.sum * scale, shared);  // its barriers also order the capped logits before the target's
  if (threadIdx.x != 0) return;
  if (isinf(maximum) && args.columns > 0) sum = NAN;  // as differences of infinities would have it
  args.maximum[row] = maximum;
  args.sum_exp[row] = sum;
  int32_t target = args.targets[row];
  int64_t column = target - args.column_begin;
  bool is_here = target >= 0 && column >= 0 && column < args.columns;
  args.target_logit[row] = is_here ? args.logits[begin + column] - maximum : 0.0f;
}

void row_statistics(const RowStatisticsArgs& args, const Stream& stream) {
  if (args.dtype != DType::f32) fail_dtype("row_statistics", args.dtype);
  if (args.rows == 0) return;
  CudaDevice& device = device_of(stream);
  auto targets = uploaded(device, args.targets, args.rows);
  Statistics statistics{.logits = static_cast<float*>(args.logits),
                        .targets = targets.data(),
                        .maximum = static_cast<float*>(args.maximum),
                        .sum_exp = static_cast<float*>(args.sum_exp),
                        .target_logit = static_cast<float*>(args.target_logit),
                        .columns = args.columns,
                        .column_begin = args.column_begin,
                        .cap = args.soft_cap,
                        .fits = is_aligned(args.logits)};
  auto blocks = static_cast<unsigned>(args.rows);
  if (args.soft_cap > 0) {
    statistics_kernel<true><<<blocks, kThreads, 0, device.stream()>>>(statistics);
  } else {
    statistics_kernel<false><<<blocks, kThreads, 0, device.stream()>>>(statistics);
  }
  check_launch("row_statistics");
}

/// One row of dlogits. The target's element is computed whole, not corrected after rounding.
template <typename D, bool kIsCapped>
struct GradientRow {
  const float* logits;
  D* dlogits;
  float maximum, factor, row_scale, inverse_cap;
  int64_t target;  // column of the target; outside [0, columns) when another rank has it

  template <int N>
  __device__ __forceinline__ void run(int64_t column) {
    float values[N];
    load_floats(logits + column, values);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float logit = values[k];
      float gradient = expf(logit - maximum) * factor;
      if (column + k == target) gradient -= row_scale;
      if constexpr (kIsCapped) {
        float tangent = logit * inverse_cap;
        gradient *= 1.0f - tangent * tangent;
      }
      values[k] = gradient;
    }
    store_floats(dlogits + column, values);
  }
};

template <typename D>
struct ZeroRow {
  D* dlogits;

  template <int N>
  __device__ __forceinline__ void run(int64_t column) {
    float zeros[N] = {};
    store_floats(dlogits + column, zeros);
  }
};

template <typename D>
struct Gradient {
  const float* logits;
  const float* maximum;
  const float* sum_exp;
  const int32_t* targets;
  const float* row_scale;
  D* dlogits;
  int64_t columns, column_begin;
  float cap;
  bool fits;
};

/// A block a row. dlogits may be the logits: each element is read and written by one thread.
template <typename D, bool kIsCapped>
__global__ void __launch_bounds__(kThreads) gradient_kernel(Gradient<D> args) {
  int64_t row = blockIdx.x, begin = row * args.columns;
  int32_t target = args.targets[row];
  if (target < 0) {
    ZeroRow<D> zero{args.dlogits + begin};
    for_row(begin, args.columns, args.fits, zero);
    return;
  }
  float row_scale = args.row_scale[row];
  GradientRow<D, kIsCapped> gradient{.logits = args.logits + begin,
                                     .dlogits = args.dlogits + begin,
                                     .maximum = args.maximum[row],
                                     .factor = row_scale / args.sum_exp[row],
                                     .row_scale = row_scale,
                                     .inverse_cap = 1.0f / args.cap,
                                     .target = target - args.column_begin};
  for_row(begin, args.columns, args.fits, gradient);
}

template <typename D>
void run_backward(const CrossEntropyBackwardArgs& args, CudaDevice& device) {
  auto targets = uploaded(device, args.targets, args.rows);
  Gradient<D> gradient{.logits = static_cast<const float*>(args.logits),
                       .maximum = static_cast<const float*>(args.maximum),
                       .sum_exp = static_cast<const float*>(args.sum_exp),
                       .targets = targets.data(),
                       .row_scale = static_cast<const float*>(args.row_scale),
                       .dlogits = static_cast<D*>(args.dlogits),
                       .columns = args.columns,
                       .column_begin = args.column_begin,
                       .cap = args.soft_cap,
                       .fits = is_aligned(args.logits) && packs_fit(static_cast<D*>(args.dlogits), kSize)};
  auto blocks = static_cast<unsigned>(args.rows);
  if (args.soft_cap > 0) {
    gradient_kernel<D, true><<<blocks, kThreads, 0, device.stream()>>>(gradient);
  } else {
    gradient_kernel<D, false><<<blocks, kThreads, 0, device.stream()>>>(gradient);
  }
  check_launch("cross_entropy_backward");
}

void backward(const CrossEntropyBackwardArgs& args, const Stream& stream) {
  if (args.dtype != DType::f32) fail_dtype("cross_entropy_backward", args.dtype);
  if (args.rows == 0 || args.columns == 0) return;
  dispatch(args.dlogits_dtype, "cross_entropy_backward", [&](auto zero) {
    run_backward<decltype(zero)>(args, device_of(stream));
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

CrossEntropyKernels cuda_cross_entropy_kernels() {
  return {.row_statistics = cuda::row_statistics, .backward = cuda::backward};
}

}  // namespace weft
