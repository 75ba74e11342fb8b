// Read bandwidth and matrix products, measured on random data (zeros run faster).
#include "kernels/cuda/machine_peaks.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/common.cuh"

namespace weft::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 8;
/// Packs of 16 bytes that a block reads at a time.
constexpr int64_t kBlockPacks = int64_t{kThreads} * kUnroll;
constexpr size_t kMaxReadBytes = size_t{2} << 30;
constexpr int kReadRepeats = 10;
constexpr int64_t kBf16Size = 8192, kF32Size = 4096;
constexpr int kWarmUps = 3, kProductRepeats = 11;

/// The time between two points of the stream.
class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&stop_), "cudaEventCreate");
  }
  ~Timer() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  template <typename Body>
  double seconds(const Body& body) {
    check(cudaEventRecord(start_, stream_), "cudaEventRecord");
    body();
    check(cudaEventRecord(stop_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(stop_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) / 1e3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

/// Bits that look random (the finaliser of MurmurHash3).
__device__ __forceinline__ uint32_t scrambled(uint32_t value) {
  value = (value ^ (value >> 16)) * 0x85ebca6bu;
  value = (value ^ (value >> 13)) * 0xc2b2ae35u;
  return value ^ (value >> 16);
}

__global__ void fill_words(uint32_t* words, int64_t count) {
  int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    words[i] = scrambled(static_cast<uint32_t>(i));
  }
}

/// Values in [-1, 1).
template <typename T>
__global__ void fill_values(T* values, int64_t count, uint32_t seed) {
  int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    float fraction = static_cast<float>(scrambled(static_cast<uint32_t>(i) ^ seed) >> 8) * 0x1p-24f;
    values[i] = from_float<T>(2 * fraction - 1);
  }
}

__global__ void __launch_bounds__(kThreads) read_all(const uint4* packs, int64_t count, uint32_t* results) {
  uint32_t sum = 0;
  for (int64_t first = blockIdx.x * kBlockPacks; first < count; first += gridDim.x * kBlockPacks) {
    uint4 values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) values[u] = __ldcs(packs + first + u * kThreads + threadIdx.x);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) sum ^= values[u].x ^ values[u].y ^ values[u].z ^ values[u].w;
  }
  results[static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x] = sum;
}

/// The best of several: what the memory can do when nothing disturbs it.
double read_bandwidth(CudaDevice& device) {
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  auto usable = static_cast<int64_t>(std::min(kMaxReadBytes, free_bytes / 4));
  int64_t packs = std::max<int64_t>(1, usable / 16 / kBlockPacks) * kBlockPacks;
  auto blocks = static_cast<unsigned>(std::min<int64_t>(packs / kBlockPacks, device.num_multiprocessors() * 4));
  DeviceBuffer<uint4> buffer(device, packs);
  DeviceBuffer<uint32_t> results(device, int64_t{blocks} * kThreads);
  fill_words<<<grid_for(device, packs * 4, kThreads), kThreads, 0, device.stream()>>>(
      reinterpret_cast<uint32_t*>(buffer.data()), packs * 4);
  check_launch("filling memory");
  Timer timer(device.stream());
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kReadRepeats; ++i) {
    best = std::min(best, timer.seconds([&] {
      read_all<<<blocks, kThreads, 0, device.stream()>>>(buffer.data(), packs, results.data());
      check_launch("reading memory");
    }));
  }
  return static_cast<double>(packs) * 16 / best;
}

/// The median of several: a GPU that begins cool is faster than one at work.
template <typename T>
double product_flops(DType dtype, int64_t size, CudaDevice& device) {
  int64_t count = size * size;
  DeviceBuffer<T> a(device, count), b(device, count), c(device, count);
  unsigned grid = grid_for(device, count, kThreads);
  fill_values<<<grid, kThreads, 0, device.stream()>>>(a.data(), count, 0x12345678u);
  fill_values<<<grid, kThreads, 0, device.stream()>>>(b.data(), count, 0x9abcdef1u);
  check_launch("filling matrices");
  Product product{.a = a.data(),
                  .b = b.data(),
                  .c = c.data(),
                  .m = size,
                  .n = size,
                  .k = size,
                  .transpose_b = true,
                  .dtype = dtype,
                  .c_dtype = dtype};
  for (int i = 0; i < kWarmUps; ++i) device.blas().multiply(product, device);
  Timer timer(device.stream());
  std::vector<double> seconds;
  for (int i = 0; i < kProductRepeats; ++i) {
    seconds.push_back(timer.seconds([&] { device.blas().multiply(product, device); }));
  }
  std::sort(seconds.begin(), seconds.end());
  auto edge = static_cast<double>(size);
  return 2 * edge * edge * edge / seconds[kProductRepeats / 2];
}

}  // namespace

MachinePeaks measure_cuda_peaks(DType dtype, CudaDevice& device) {
  MachinePeaks peaks;
  dispatch(dtype, "measurement of peaks", [&](auto zero) {
    using T = decltype(zero);
    peaks.matmul_flops_per_second = product_flops<T>(dtype, sizeof(T) == 2 ? kBf16Size : kF32Size, device);
  });
  peaks.memory_bytes_per_second = read_bandwidth(device);
  return peaks;
}

}  // namespace weft::cuda
