// Speed of the optimizers' kernels on a model's worth of elements, beside what the machine's memory does: reading, and
// reading and writing back. Not a test: run by hand, `optimizer_bench [THREADS]`.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <vector>

#include "kernels/kernels.h"

namespace weft {
namespace {

constexpr int64_t kCount = int64_t{32} << 20;

/// Processor time a thread: what other processes on the machine take does not count.
double processor_seconds(int num_threads) {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec)) / num_threads;
}

double shortest_seconds(int num_threads, const std::function<void()>& body) {
  double best = 1e30;
  for (int i = 0; i < 12; ++i) {
    double start = processor_seconds(num_threads);
    body();
    best = std::min(best, processor_seconds(num_threads) - start);
  }
  return best;
}

void report(const char* name, double bytes_per_element, int num_threads, const std::function<void()>& body) {
  double seconds = shortest_seconds(num_threads, body);
  fmt::print("{:28} {:6.1f} GB/s  {:7.2f} ms\n",
             name,
             bytes_per_element * static_cast<double>(kCount) / seconds * 1e-9,
             seconds * 1e3);
}

void run(int num_threads) {
  Stream stream{.device = {}, .num_threads = num_threads};
  const OptimizerKernels& optimizer = kernels(DeviceType::cpu).optimizer;
  std::vector<float> grad(kCount, 0.1f), exp_avg(kCount, 0.2f), exp_avg_sq(kCount, 0.3f), f32(kCount, 1.0f),
      master(kCount, 1.0f);
  std::vector<uint16_t> bf16(kCount, 0x3f80), low(kCount);
  MachinePeaks peaks = measure_machine_peaks(DType::f32, stream);
  fmt::print("{:28} {:6.1f} GB/s\n", "reading", peaks.memory_bytes_per_second * 1e-9);
  report("reading and writing back", 8, num_threads, [&] {
    kernels(DeviceType::cpu)
        .elementwise.axpby({.x = f32.data(), .y = f32.data(), .count = kCount, .a = 1, .b = 0}, stream);
  });
  auto adam = [&](const char* name, double bytes_per_element, const OptimizerWeight& weight) {
    report(name, bytes_per_element, num_threads, [&] {
      optimizer.adam({.weight = weight,
                      .grad = grad.data(),
                      .exp_avg = exp_avg.data(),
                      .exp_avg_sq = exp_avg_sq.data(),
                      .count = kCount,
                      .rate = 1e-4,
                      .decay = 1e-5},
                     stream);
    });
  };
  adam("adam, f32", 28, {.weight = f32.data()});
  adam("adam, bf16 + low bits",
       28,
       {.weight = bf16.data(), .extra = low.data(), .dtype = DType::bf16, .storage = WeightStorage::low_bits});
  adam("adam, f32 rounded + master",
       32,
       {.weight = f32.data(), .extra = master.data(), .storage = WeightStorage::rounded});
  OptimizerWeight stochastic{.weight = bf16.data(), .dtype = DType::bf16, .storage = WeightStorage::stochastic};
  stochastic.map = {.local_width = kCount, .full_width = kCount};
  adam("adam, bf16 stochastic", 24, stochastic);
  report("lion, f32", 20, num_threads, [&] {
    optimizer.lion({.weight = {.weight = f32.data()},
                    .grad = grad.data(),
                    .exp_avg = exp_avg.data(),
                    .count = kCount,
                    .rate = 1e-4},
                   stream);
  });
  report("sum of squares, f32", 4, num_threads, [&] {
    optimizer.sum_of_squares({.weight = grad.data()}, kCount, stream);
  });
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  weft::run(argc > 1 ? std::atoi(argv[1]) : 2);
  return 0;
}
