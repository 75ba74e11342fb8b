// Sums over a parameter that the host needs: each block leaves one partial sum, the host adds them in order. Which
// elements a block has depends on their number only, not on the device nor on addresses: sums repeat to the bit.
#include <algorithm>
#include <vector>

#include "kernels/cuda/adam_rule.cuh"
#include "kernels/cuda/optimizer_parts.h"
#include "kernels/cuda/optimizer_storage.cuh"

namespace weft::cuda {
namespace {

/// Four blocks a multiprocessor of an H100: all run at once.
constexpr int64_t kMaxBlocks = 512;

/// Adds up body.add<N>(i, sums) over [0, count), `kSums` sums at once; parts is [blocks, kSums].
template <int kSums, bool kFits, typename Body>
__global__ void __launch_bounds__(kPackThreads, 4) sums_kernel(int64_t count, Body body, double* parts) {
  __shared__ double shared[33];
  double sums[kSums] = {};
  int64_t stride = int64_t{gridDim.x} * kPackThreads * kOptimizerPack;
  int64_t i = (int64_t{blockIdx.x} * kPackThreads + threadIdx.x) * kOptimizerPack;
#pragma unroll 4
  for (; i + kOptimizerPack <= count; i += stride) {
    if constexpr (kFits) {
      body.template add<kOptimizerPack>(i, sums);
    } else {
#pragma unroll
      for (int k = 0; k < kOptimizerPack; ++k) body.template add<1>(i + k, sums);
    }
  }
  for (; i < count; ++i) body.template add<1>(i, sums);
#pragma unroll
  for (int sum = 0; sum < kSums; ++sum) {
    double total = block_sum(sums[sum], shared);
    if (threadIdx.x == 0) parts[int64_t{blockIdx.x} * kSums + sum] = total;
  }
}

template <int kSums, typename Body>
void add_up(CudaDevice& device, int64_t count, bool fits, const Body& body, const char* kernel, double (&sums)[kSums]) {
  std::fill_n(sums, kSums, 0.0);
  if (count <= 0) return;
  int64_t blocks = std::min(ceil_div(count, int64_t{kPackThreads} * kOptimizerPack), kMaxBlocks);
  DeviceBuffer<double> parts(device, blocks * kSums);
  auto grid = static_cast<unsigned>(blocks);
  if (fits) {
    sums_kernel<kSums, true><<<grid, kPackThreads, 0, device.stream()>>>(count, body, parts.data());
  } else {
    sums_kernel<kSums, false><<<grid, kPackThreads, 0, device.stream()>>>(count, body, parts.data());
  }
  check_launch(kernel);
  std::vector<double> on_host(static_cast<size_t>(blocks * kSums));
  device.copy_to_host(on_host.data(), parts.data(), on_host.size() * sizeof(double));
  for (size_t part = 0; part < on_host.size(); ++part) sums[part % kSums] += on_host[part];
}

template <typename Storage>
struct SquareSum {
  Storage storage;

  template <int N>
  __device__ __forceinline__ void add(int64_t i, double (&sums)[1]) const {
    float w[N];
    storage.load(i, w);
#pragma unroll
    for (int k = 0; k < N; ++k) sums[0] = fma(double{w[k]}, double{w[k]}, sums[0]);
  }
};

template <typename Storage>
struct NormSums {
  Storage storage;
  AdamRule rule;

  template <int N>
  __device__ __forceinline__ void add(int64_t i, double (&sums)[2]) const {
    float w[N], directions[N];
    storage.load(i, w);
    rule.template directions<true>(i, directions);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      double update = __fmaf_rn(rule.decay, w[k], directions[k]);
      sums[0] = fma(double{w[k]}, double{w[k]}, sums[0]);
      sums[1] = fma(update, update, sums[1]);
    }
  }
};

/// One piece of an array a block.
constexpr int64_t kPieceElements = 1 << 16;

__global__ void __launch_bounds__(kPackThreads) sum_pieces(const SquaredArray* pieces, double* sums) {
  __shared__ double shared[33];
  SquaredArray piece = pieces[blockIdx.x];
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < piece.count; i += kPackThreads) {
    double value = piece.values[i];
    sum = fma(value, value, sum);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

double sum_of_all_squares(std::span<const SquaredArray> arrays, const Stream& stream) {
  std::vector<SquaredArray> pieces;
  for (const SquaredArray& array : arrays) {
    for (int64_t begin = 0; begin < array.count; begin += kPieceElements) {
      pieces.push_back({array.values + begin, std::min(kPieceElements, array.count - begin)});
    }
  }
  if (pieces.empty()) return 0;
  CudaDevice& device = device_of(stream);
  auto count = static_cast<int64_t>(pieces.size());
  DeviceBuffer<SquaredArray> list = uploaded(device, pieces.data(), count);
  DeviceBuffer<double> sums(device, count);
  sum_pieces<<<static_cast<unsigned>(count), kPackThreads, 0, device.stream()>>>(list.data(), sums.data());
  check_launch("sum_of_all_squares");
  std::vector<double> on_host(pieces.size());
  device.copy_to_host(on_host.data(), sums.data(), on_host.size() * sizeof(double));
  double total = 0;
  for (double sum : on_host) total += sum;
  return total;
}

AdamNorms adam_norms(const AdamArgs& args, const Stream& stream) {
  check_weight(args.weight, "adam_norms");
  AdamRule rule(args);
  double sums[2] = {};
  with_exact_storage(args.weight, [&](auto storage) {
    bool fits = storage.fits() && rule.fits(kOptimizerPack, true);
    add_up(device_of(stream), args.count, fits, NormSums<decltype(storage)>{storage, rule}, "adam_norms", sums);
  });
  return {.weight = sums[0], .update = sums[1]};
}

double sum_of_squares(const OptimizerWeight& values, int64_t count, const Stream& stream) {
  check_weight(values, "sum_of_squares");
  double sums[1] = {};
  with_exact_storage(values, [&](auto storage) {
    add_up(device_of(stream), count, storage.fits(), SquareSum<decltype(storage)>{storage}, "sum_of_squares", sums);
  });
  return sums[0];
}

}  // namespace weft::cuda
