// Speed of matrix products at SmolLM2-135M's shapes, against this machine's measured peaks. Not a test: `linear_bench
// [threads]`.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <vector>

#include "core/memory.h"
#include "core/random.h"
#include "kernels/cpu/cpu_kernels.h"

namespace weft {
namespace {

struct Shape {
  int64_t in_features;
  std::vector<int64_t> out_features;  // one call
};

const std::vector<Shape> kLayer = {{576, {576, 192, 192}}, {576, {576}}, {576, {1536, 1536}}, {1536, {576}}};
const Shape kHead = {576, {49152}};
constexpr int kNumLayers = 30;

using Buffer = std::vector<uint32_t>;

/// Random values of either type: two bf16 or one f32 near one half.
Buffer random_buffer(size_t bytes, DType dtype) {
  Buffer buffer(bytes / 4 + 1);
  uint32_t state = 12345;
  for (uint32_t& word : buffer) {
    state = state * 1664525u + 1013904223u;
    word = dtype == DType::bf16 ? (0x3f003f00u | ((state >> 8) & 0x007f007fu)) : (0x3f000000u | (state >> 9));
  }
  return buffer;
}

struct Call {
  Shape shape;
  std::vector<Buffer> weights, outputs;
  std::vector<LinearWeight> views;
};

Call make_call(const Shape& shape, int64_t rows, DType dtype) {
  LinearKernels kernels = cpu_linear_kernels();
  Call call{.shape = shape, .weights = {}, .outputs = {}, .views = {}};
  for (int64_t n : shape.out_features) {
    size_t packed = kernels.packed_bytes(n, shape.in_features, dtype);
    size_t bytes = packed != 0 ? packed : static_cast<size_t>(n * shape.in_features) * dtype_bytes(dtype);
    call.weights.push_back(random_buffer(bytes, dtype));
    call.outputs.emplace_back(static_cast<size_t>(rows * n));
    call.views.push_back({.weight = call.weights.back().data(),
                          .y = call.outputs.back().data(),
                          .out_features = n,
                          .layout = packed != 0 ? Layout::packed : Layout::row_major});
  }
  return call;
}

double median_seconds(int repeats, const std::function<void()>& body) {
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    auto start = std::chrono::steady_clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[repeats / 2];
}

/// All products of a forward of `rows` tokens, each with weights of its own, the head for at most 8 rows.
void bench_model(int64_t rows, DType dtype, const Stream& stream, const MachinePeaks& peaks) {
  std::vector<Call> calls;
  for (int layer = 0; layer < kNumLayers; ++layer) {
    for (const Shape& shape : kLayer) calls.push_back(make_call(shape, rows, dtype));
  }
  if (rows <= 8) calls.push_back(make_call(kHead, rows, dtype));
  Buffer x = random_buffer(static_cast<size_t>(rows) * 1536 * dtype_bytes(dtype), dtype);
  double weights = 0;
  for (const Call& call : calls) {
    for (int64_t n : call.shape.out_features) weights += static_cast<double>(n * call.shape.in_features);
  }
  double seconds = median_seconds(rows <= 8 ? 31 : 5, [&] {
    for (const Call& call : calls) {
      cpu_linear_kernels().forward({.x = x.data(),
                                    .weights = call.views,
                                    .rows = rows,
                                    .in_features = call.shape.in_features,
                                    .dtype = dtype,
                                    .y_dtype = dtype},
                                   stream);
    }
  });
  double bandwidth = weights * static_cast<double>(dtype_bytes(dtype)) / seconds;
  double flops = 2 * weights * static_cast<double>(rows) / seconds;
  fmt::print("{} {:5} rows: {:8.3f} ms {:6.1f} GB/s ({:3.0f} %) {:7.1f} GFLOP/s ({:3.0f} %)\n",
             dtype_name(dtype),
             rows,
             seconds * 1e3,
             bandwidth * 1e-9,
             100 * bandwidth / peaks.memory_bytes_per_second,
             flops * 1e-9,
             100 * flops / peaks.matmul_flops_per_second);
}

void bench(int threads) {
  std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  Stream stream{.device = {}, .num_threads = threads, .workspace = allocator.get()};
  for (DType dtype : {DType::bf16, DType::f32}) {
    MachinePeaks peaks = measure_machine_peaks(dtype, stream);
    fmt::print("{} peaks: {:.1f} GB/s, {:.1f} GFLOP/s, {} threads\n",
               dtype_name(dtype),
               peaks.memory_bytes_per_second * 1e-9,
               peaks.matmul_flops_per_second * 1e-9,
               threads);
    for (int64_t rows : {1, 2, 4, 8, 16, 512, 2048}) bench_model(rows, dtype, stream, peaks);
  }
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  weft::bench(argc > 1 ? std::atoi(argv[1]) : 2);
  return 0;
}
