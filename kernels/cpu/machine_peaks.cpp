// The denominators of every speed that Weft prints: read bandwidth and matrix products, measured on random data (zeros
// run faster).
#include <chrono>
#include <limits>
#include <vector>

#include "core/random.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/parallel.h"

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
  Words words = random_words(kReadBytes, stream);
  std::vector<uint64_t> sums(1);
  double seconds = shortest_seconds(5, [&] {
    parallel_for(stream.num_threads, static_cast<int64_t>(words.size()), 4096, [&](int64_t begin, int64_t end) {
      uint64_t sum = 0;
      for (int64_t i = begin; i < end; ++i) sum ^= words[i];
#pragma omp atomic
      sums[0] ^= sum;
    });
  });
  return static_cast<double>(kReadBytes) / seconds;
}

}  // namespace

MachinePeaks measure_machine_peaks(DType dtype, const Stream& stream) {
  MachinePeaks peaks;
  peaks.memory_bytes_per_second = measure_read_bandwidth(stream);
  RandomKey key{.seed = 1};
  std::vector<float> values(kMatmulSize * kMatmulSize);
  for (size_t i = 0; i < values.size(); ++i) values[i] = key.uniform(i) - 0.5f;
  std::vector<uint64_t> x(values.size()), w(values.size()), y(values.size());
  convert_dtype(values.data(), DType::f32, x.data(), dtype, static_cast<int64_t>(values.size()));
  convert_dtype(values.data(), DType::f32, w.data(), dtype, static_cast<int64_t>(values.size()));
  LinearWeight weight{.weight = w.data(), .y = y.data(), .out_features = kMatmulSize};
  LinearForwardArgs args{.x = x.data(),
                         .weights = {&weight, 1},
                         .rows = kMatmulSize,
                         .in_features = kMatmulSize,
                         .dtype = dtype,
                         .y_dtype = dtype};
  double seconds = shortest_seconds(3, [&] { cpu_linear_kernels().forward(args, stream); });
  peaks.matmul_flops_per_second = 2.0 * kMatmulSize * kMatmulSize * kMatmulSize / seconds;
  return peaks;
}

}  // namespace weft
