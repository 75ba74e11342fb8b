// Speed of matrix products at SmolLM2-135M's shapes, against this machine's measured peaks. Not a test: `linear_bench
// [threads]`.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "kernels/cpu/cpu_kernels.h"

namespace weft {
namespace {

struct CallShape {
  int64_t in_features;
  std::vector<int64_t> out_features;  // one call
};

const std::vector<CallShape> kLayer = {{576, {576, 192, 192}}, {576, {576}}, {576, {1536, 1536}}, {1536, {576}}};
const CallShape kHead = {576, {49152}};
constexpr int kNumLayers = 30;

/// Random values of either type, two bf16 or one f32 between 0.5 and 1, in memory as the product allocates it.
Tensor random_buffer(const std::shared_ptr<Allocator>& allocator, size_t bytes, DType dtype) {
  auto count = static_cast<int64_t>(bytes / 4 + 1);
  Tensor buffer = Tensor::empty(allocator, Shape{count}, DType::i32, MemoryTag::weights);
  uint32_t state = 12345;
  for (int32_t& word : std::span(buffer.data<int32_t>(), static_cast<size_t>(count))) {
    state = state * 1664525u + 1013904223u;
    word = static_cast<int32_t>(dtype == DType::bf16 ? 0x3f003f00u | ((state >> 8) & 0x007f007fu)
                                                     : 0x3f000000u | (state >> 9));
  }
  return buffer;
}

struct Call {
  CallShape shape;
  std::vector<Tensor> weights, outputs;
  std::vector<LinearWeight> views;
  size_t weight_bytes = 0;
};

/// The row-major, packed or quantized weights of a call, at random.
Call make_call(
    const std::shared_ptr<Allocator>& allocator, const CallShape& shape, int64_t rows, DType dtype, Layout layout) {
  LinearKernels kernels = cpu_linear_kernels();
  Call call{.shape = shape, .weights = {}, .outputs = {}, .views = {}, .weight_bytes = 0};
  for (int64_t n : shape.out_features) {
    size_t packed = kernels.packed_bytes(n, shape.in_features, dtype, layout);
    size_t bytes = packed != 0 ? packed : static_cast<size_t>(n * shape.in_features) * dtype_bytes(dtype);
    call.weights.push_back(random_buffer(allocator, bytes, dtype));
    call.outputs.push_back(Tensor::empty(allocator, Shape{rows * n}, dtype));
    call.views.push_back({.weight = call.weights.back().raw(),
                          .y = call.outputs.back().raw(),
                          .out_features = n,
                          .layout = packed != 0 ? layout : Layout::row_major});
    call.weight_bytes += bytes;
  }
  return call;
}

const char* layout_name(Layout layout) {
  return layout == Layout::int8 ? "int8" : layout == Layout::int4 ? "int4" : "whole";
}

struct Timing {
  double median_seconds, best_seconds;
};

Timing measure(int repeats, const std::function<void()>& body) {
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    auto start = std::chrono::steady_clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {.median_seconds = seconds[seconds.size() / 2], .best_seconds = seconds.front()};
}

/// All products of a forward of `rows` tokens, each with weights of its own, the head for at most 8 rows.
void bench_model(const std::shared_ptr<Allocator>& allocator,
                 int64_t rows,
                 DType dtype,
                 Layout layout,
                 const Stream& stream,
                 const MachinePeaks& peaks) {
  std::vector<Call> calls;
  for (int layer = 0; layer < kNumLayers; ++layer) {
    for (const CallShape& shape : kLayer) calls.push_back(make_call(allocator, shape, rows, dtype, layout));
  }
  if (rows <= 8) calls.push_back(make_call(allocator, kHead, rows, dtype, layout));
  Tensor x = random_buffer(allocator, static_cast<size_t>(rows) * 1536 * dtype_bytes(dtype), dtype);
  double weights = 0, bytes = 0;
  for (const Call& call : calls) {
    bytes += static_cast<double>(call.weight_bytes);
    for (int64_t n : call.shape.out_features) weights += static_cast<double>(n * call.shape.in_features);
  }
  Timing timing = measure(rows <= 16 ? 31 : 5, [&] {
    for (const Call& call : calls) {
      cpu_linear_kernels().forward({.x = x.raw(),
                                    .weights = call.views,
                                    .rows = rows,
                                    .in_features = call.shape.in_features,
                                    .dtype = dtype,
                                    .y_dtype = dtype},
                                   stream);
    }
  });
  double flops = 2 * weights * static_cast<double>(rows);
  for (double seconds : {timing.median_seconds, timing.best_seconds}) {
    fmt::print("{} {} {:5} rows {}: {:8.3f} ms {:6.1f} GB/s ({:3.0f} %) {:7.1f} GFLOP/s ({:3.0f} %)\n",
               dtype_name(dtype),
               layout_name(layout),
               rows,
               seconds == timing.median_seconds ? "median" : "best  ",
               seconds * 1e3,
               bytes / seconds * 1e-9,
               100 * bytes / seconds / peaks.memory_bytes_per_second,
               flops / seconds * 1e-9,
               100 * flops / seconds / peaks.matmul_flops_per_second);
  }
}

/// One product of a training step with a row-major weight [out_features, in_features].
struct TrainingShape {
  int64_t out_features, in_features;
};
constexpr TrainingShape kTrainingShapes[] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};

struct TrainingBuffers {
  Tensor x, y, weight, weight_grad;  // gradients of x and y take the place of their values
};

void print_training_product(const char* name, const TrainingShape& shape, int64_t rows, DType dtype, Timing timing) {
  double flops = 2.0 * static_cast<double>(rows * shape.out_features * shape.in_features);
  fmt::print("{} {:5} x {:4}, rows {}, {}: median {:8.3f} ms {:7.1f} GFLOP/s, best {:7.1f} GFLOP/s\n",
             dtype_name(dtype),
             shape.out_features,
             shape.in_features,
             rows,
             name,
             timing.median_seconds * 1e3,
             flops / timing.median_seconds * 1e-9,
             flops / timing.best_seconds * 1e-9);
}

void bench_training_shape(
    const TrainingShape& shape, int64_t rows, DType dtype, const Stream& stream, TrainingBuffers& buffers) {
  LinearKernels kernels = cpu_linear_kernels();
  int repeats = shape.out_features > 4096 ? 5 : 31;
  LinearWeight weight{.weight = buffers.weight.raw(), .y = buffers.y.raw(), .out_features = shape.out_features};
  auto report = [&](const char* name, const std::function<void()>& body) {
    body();
    print_training_product(name, shape, rows, dtype, measure(repeats, body));
  };
  report("forward        ", [&] {
    kernels.forward({.x = buffers.x.raw(),
                     .weights = {&weight, 1},
                     .rows = rows,
                     .in_features = shape.in_features,
                     .dtype = dtype,
                     .y_dtype = dtype},
                    stream);
  });
  for (bool accumulate : {false, true}) {
    report(accumulate ? "backward_input += " : "backward_input    ", [&] {
      kernels.backward_input({.dy = buffers.y.raw(),
                              .weight = buffers.weight.raw(),
                              .dx = buffers.x.raw(),
                              .rows = rows,
                              .out_features = shape.out_features,
                              .in_features = shape.in_features,
                              .dtype = dtype,
                              .accumulate = accumulate},
                             stream);
    });
  }
  for (bool accumulate : {false, true}) {
    report(accumulate ? "backward_weight += " : "backward_weight    ", [&] {
      kernels.backward_weight({.dy = buffers.y.raw(),
                               .x = buffers.x.raw(),
                               .dw = buffers.weight_grad.raw(),
                               .rows = rows,
                               .out_features = shape.out_features,
                               .in_features = shape.in_features,
                               .dtype = dtype,
                               .accumulate_weight = accumulate},
                              stream);
    });
  }
}

void bench_training(const std::shared_ptr<Allocator>& allocator, int64_t rows, DType dtype, const Stream& stream) {
  for (const TrainingShape& shape : kTrainingShapes) {
    auto buffer = [&](int64_t elements, size_t element_bytes) {
      return random_buffer(allocator, static_cast<size_t>(elements) * element_bytes, dtype);
    };
    int64_t weights = shape.out_features * shape.in_features;
    TrainingBuffers buffers{.x = buffer(rows * shape.in_features, dtype_bytes(dtype)),
                            .y = buffer(rows * shape.out_features, dtype_bytes(dtype)),
                            .weight = buffer(weights, dtype_bytes(dtype)),
                            .weight_grad = buffer(weights, sizeof(float))};
    bench_training_shape(shape, rows, dtype, stream, buffers);
  }
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
    for (int64_t rows : {1, 2, 4, 8, 16, 512, 2048}) {
      for (Layout layout : {Layout::packed, Layout::int8, Layout::int4}) {
        bench_model(allocator, rows, dtype, layout, stream, peaks);
      }
    }
    bench_training(allocator, 1024, dtype, stream);
  }
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  weft::bench(argc > 1 ? std::atoi(argv[1]) : 2);
  return 0;
}
