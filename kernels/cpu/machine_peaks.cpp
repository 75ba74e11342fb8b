// The denominators of every speed that Weft prints: read bandwidth and matrix products, measured on random data (zeros
// run faster).
#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "core/random.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/parallel_tasks.h"
#include "kernels/cpu/scratch.h"

namespace weft {
namespace {

constexpr int64_t kReadBytes = int64_t{256} << 20;
constexpr int64_t kMatmulSize = 1024;

using Words = std::vector<uint64_t>;

Words random_words(int64_t bytes, const Stream& stream) {
  Words words(static_cast<size_t>(bytes / 8));
  parallel_for(stream.num_threads, static_cast<int64_t>(words.size()), 4096, [&](int64_t begin, int64_t end) {
    uint64_t state = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(begin + 1);
    for (int64_t i = begin; i < end; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      words[i] = state;
    }
  });
  return words;
}

/// The shortest of `repeats` runs, in seconds: what the machine can do when nothing disturbs it.
template <typename Body>
double shortest_seconds(int repeats, const Body& body) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

double measure_read_bandwidth(const Stream& stream) {
  constexpr int64_t kTaskWords = 64 << 10;
  Words words = random_words(kReadBytes, stream);
  std::vector<uint64_t> sums(static_cast<size_t>(kReadBytes / 8 / kTaskWords));
  double seconds = shortest_seconds(6, [&] {
    parallel_tasks(stream.num_threads, static_cast<int64_t>(sums.size()), [&](int64_t task) {
      const uint64_t* begin = words.data() + task * kTaskWords;
      uint64_t sum = 0;
#pragma omp simd reduction(^ : sum)
      for (int64_t i = 0; i < kTaskWords; ++i) sum ^= begin[i];
      sums[task] ^= sum;
    });
  });
  return static_cast<double>(kReadBytes) / seconds;
}

/// kMatmulSize² values in (-1, 1).
std::vector<std::byte> random_matrix(DType dtype, uint32_t site) {
  RandomKey key{.seed = 1, .step = 0, .site = site};
  std::vector<float> values(kMatmulSize * kMatmulSize);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * key.uniform(i) - 1;
  std::vector<std::byte> matrix(values.size() * dtype_bytes(dtype));
  convert_dtype(values.data(), DType::f32, matrix.data(), dtype, static_cast<int64_t>(values.size()));
  return matrix;
}

/// Of the product as inference runs it: with the weight packed where there is a packed layout.
double measure_matmul_peak(DType dtype, const Stream& stream) {
  LinearKernels kernels = cpu_linear_kernels();
  std::vector<std::byte> x = random_matrix(dtype, 1), rows = random_matrix(dtype, 2), y(x.size());
  size_t packed_bytes = kernels.packed_bytes(kMatmulSize, kMatmulSize, dtype, Layout::packed);
  Scratch packed(stream, std::max<size_t>(1, packed_bytes));
  LinearWeight weight{.weight = rows.data(), .y = y.data(), .out_features = kMatmulSize};
  if (packed_bytes != 0) {
    kernels.pack({.rows = rows.data(),
                  .packed = packed.data(),
                  .num_rows = kMatmulSize,
                  .out_features = kMatmulSize,
                  .in_features = kMatmulSize,
                  .dtype = dtype},
                 stream);
    weight.weight = packed.data();
    weight.layout = Layout::packed;
  }
  LinearForwardArgs args{.x = x.data(),
                         .weights = {&weight, 1},
                         .rows = kMatmulSize,
                         .in_features = kMatmulSize,
                         .dtype = dtype,
                         .y_dtype = dtype};
  double seconds = shortest_seconds(6, [&] { kernels.forward(args, stream); });
  return 2.0 * kMatmulSize * kMatmulSize * kMatmulSize / seconds;
}

}  // namespace

MachinePeaks measure_cpu_peaks(DType dtype, const Stream& stream) {
  return {.memory_bytes_per_second = measure_read_bandwidth(stream),
          .matmul_flops_per_second = measure_matmul_peak(dtype, stream)};
}

}  // namespace weft
