// Speed of the optimizers' kernels on a model's worth of elements, beside what the machine's memory does: reading, and
// reading and writing back. Not a test: run by hand, `optimizer_bench [THREADS]`.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>

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
  std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  auto filled = [&](float value) {
    Tensor tensor = Tensor::empty(allocator, {kCount}, DType::f32, MemoryTag::optimizer);
    std::fill_n(tensor.data<float>(), kCount, value);
    return tensor;
  };
  Tensor grad = filled(0.1f), exp_avg = filled(0.2f), exp_avg_sq = filled(0.3f), f32 = filled(1), master = filled(1);
  Tensor bf16 = Tensor::zeros(allocator, {kCount}, DType::bf16, MemoryTag::optimizer);
  Tensor low = Tensor::zeros(allocator, {kCount}, DType::bf16, MemoryTag::optimizer);
  MachinePeaks peaks = measure_machine_peaks(DType::f32, stream);
  fmt::print("{:28} {:6.1f} GB/s\n", "reading", peaks.memory_bytes_per_second * 1e-9);
  report("reading and writing back", 8, num_threads, [&] {
    kernels(DeviceType::cpu)
        .elementwise.axpby({.x = f32.raw(), .y = f32.raw(), .count = kCount, .a = 1, .b = 0}, stream);
  });
  auto adam = [&](const char* name, double bytes_per_element, const OptimizerWeight& weight) {
    report(name, bytes_per_element, num_threads, [&] {
      optimizer.adam({.weight = weight,
                      .grad = grad.data<float>(),
                      .exp_avg = exp_avg.data<float>(),
                      .exp_avg_sq = exp_avg_sq.data<float>(),
                      .count = kCount,
                      .rate = 1e-4,
                      .decay = 1e-5},
                     stream);
    });
  };
  adam("adam, f32", 28, {.weight = f32.raw()});
  adam("adam, bf16 + low bits",
       28,
       {.weight = bf16.raw(), .extra = low.raw(), .dtype = DType::bf16, .storage = WeightStorage::low_bits});
  adam("adam, f32 rounded + master",
       32,
       {.weight = f32.raw(), .extra = master.raw(), .storage = WeightStorage::rounded});
  OptimizerWeight stochastic{.weight = bf16.raw(), .dtype = DType::bf16, .storage = WeightStorage::stochastic};
  stochastic.map = {.local_width = kCount, .full_width = kCount};
  adam("adam, bf16 stochastic", 24, stochastic);
  report("lion, f32", 20, num_threads, [&] {
    optimizer.lion({.weight = {.weight = f32.raw()},
                    .grad = grad.data<float>(),
                    .exp_avg = exp_avg.data<float>(),
                    .count = kCount,
                    .rate = 1e-4},
                   stream);
  });
  report(
      "sum of squares, f32", 4, num_threads, [&] { optimizer.sum_of_squares({.weight = grad.raw()}, kCount, stream); });
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  weft::run(argc > 1 ? std::atoi(argv[1]) : 2);
  return 0;
}
