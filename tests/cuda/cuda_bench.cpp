// How close the CUDA kernels come to what the GPU allows: products of few rows against its memory's bandwidth, large
// products and attention against its matrix peak, all measured in the same run on random data.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "kernels/cuda_devices.h"
#include "kernels/kernels.h"

namespace weft {
namespace {

class Bench {
 public:
  explicit Bench(std::shared_ptr<Allocator> gpu)
      : gpu_(std::move(gpu)), stream_{.device = gpu_->device(), .num_threads = 1, .workspace = gpu_.get()} {
    peaks_ = measure_machine_peaks(DType::bf16, stream_);
    fmt::print("memory read {:.0f} GB/s, bf16 {:.0f} TFLOP/s, f32 {:.1f} TFLOP/s\n",
               peaks_.memory_bytes_per_second / 1e9,
               peaks_.matmul_flops_per_second / 1e12,
               measure_machine_peaks(DType::f32, stream_).matmul_flops_per_second / 1e12);
  }

  /// Weights rotate among several sets, so that none is found in the cache.
  void few_rows(const char* name, int64_t depth, const std::vector<int64_t>& features, int64_t rows) {
    int64_t total = 0;
    for (int64_t count : features) total += count;
    double bytes = 2.0 * static_cast<double>(total * depth);
    auto sets = static_cast<int64_t>(std::clamp(256e6 / bytes, 1.0, 64.0));
    Tensor x = random({rows, depth}), weights = random({sets * total, depth}), y = random({rows, total});
    int64_t set = 0;
    double seconds = time_of([&] {
      std::vector<LinearWeight> group;
      int64_t row = set++ % sets * total;
      auto* out = y.pointer<bfloat16>();
      for (int64_t count : features) {
        group.push_back({.weight = weights.slice(row, row + count).raw(), .y = out, .out_features = count});
        row += count;
        out += rows * count;
      }
      table_.linear.forward({.x = x.raw(),
                             .weights = group,
                             .rows = rows,
                             .in_features = depth,
                             .dtype = DType::bf16,
                             .y_dtype = DType::bf16},
                            stream_);
    });
    fmt::print("{:14} rows {:3}: {:8.1f} us, {:6.0f} GB/s, {:5.1f} % of reading\n",
               name,
               rows,
               seconds * 1e6,
               bytes / seconds / 1e9,
               100 * bytes / seconds / peaks_.memory_bytes_per_second);
  }

  void products(const char* name, int64_t rows, int64_t depth, int64_t features) {
    Tensor x = random({rows, depth}), weight = random({features, depth}), y = random({rows, features});
    Tensor dweight = Tensor::empty(gpu_, {features, depth}, DType::f32);
    LinearWeight one{.weight = weight.raw(), .y = y.raw(), .out_features = features};
    double flops = 2.0 * static_cast<double>(rows * depth) * static_cast<double>(features);
    report(name, "forward", flops, time_of([&] {
             table_.linear.forward({.x = x.raw(),
                                    .weights = {&one, 1},
                                    .rows = rows,
                                    .in_features = depth,
                                    .dtype = DType::bf16,
                                    .y_dtype = DType::bf16},
                                   stream_);
           }));
    report(name, "dx", flops, time_of([&] {
             table_.linear.backward_input({.dy = y.raw(),
                                           .weight = weight.raw(),
                                           .dx = x.raw(),
                                           .rows = rows,
                                           .out_features = features,
                                           .in_features = depth,
                                           .dtype = DType::bf16},
                                          stream_);
           }));
    report(name, "dw", flops, time_of([&] {
             table_.linear.backward_weight({.dy = y.raw(),
                                            .x = x.raw(),
                                            .dw = dweight.raw(),
                                            .rows = rows,
                                            .out_features = features,
                                            .in_features = depth,
                                            .dtype = DType::bf16},
                                           stream_);
           }));
  }

  struct Shape4 {
    int64_t batch, length, heads, kv_heads, head_dim;
  };

  void attention(const Shape4& shape, const AttentionMask& mask, const char* what) {
    int64_t tokens = shape.batch * shape.length;
    Tensor q = random({tokens, shape.heads * shape.head_dim}), k = random({tokens, shape.kv_heads * shape.head_dim});
    Tensor v = random(k.shape()), out = random(q.shape()), dout = random(q.shape());
    Tensor dq = random(q.shape()), dk = random(k.shape()), dv = random(k.shape());
    Tensor log_sum_exp = Tensor::empty(gpu_, {tokens, shape.heads}, DType::f32);
    std::vector<AttentionSequence> sequences;
    auto at = [&](const Tensor& side, int64_t row) { return side.slice(row, row + 1).raw(); };
    for (int64_t b = 0; b < shape.batch; ++b) {
      sequences.push_back({.query_begin = b * shape.length,
                           .query_count = shape.length,
                           .key_count = shape.length,
                           .keys = std::as_const(k).slice(b * shape.length, (b + 1) * shape.length).raw(),
                           .values = at(v, b * shape.length),
                           .key_token_stride = k.size(1),
                           .key_head_stride = shape.head_dim});
    }
    std::string name = fmt::format(
        "{} x {}, {}/{} x {} {}", shape.batch, shape.length, shape.heads, shape.kv_heads, shape.head_dim, what);
    double pairs = static_cast<double>(shape.batch * shape.length) * static_cast<double>(shape.length);
    if (mask.causal) pairs /= 2;
    double flops = 4.0 * pairs * static_cast<double>(shape.heads * shape.head_dim);
    report(name.c_str(), "attention", flops, time_of([&] {
             table_.attention.forward({.q = q.raw(),
                                       .out = out.raw(),
                                       .log_sum_exp = log_sum_exp.raw(),
                                       .sequences = sequences,
                                       .num_heads = shape.heads,
                                       .num_kv_heads = shape.kv_heads,
                                       .head_dim = shape.head_dim,
                                       .mask = mask,
                                       .dtype = DType::bf16},
                                      stream_);
           }));
    report(name.c_str(), "backward", 2.5 * flops, time_of([&] {
             table_.attention.backward({.q = q.raw(),
                                        .k = k.raw(),
                                        .v = v.raw(),
                                        .out = out.raw(),
                                        .dout = dout.raw(),
                                        .log_sum_exp = log_sum_exp.raw(),
                                        .dq = dq.raw(),
                                        .dk = dk.raw(),
                                        .dv = dv.raw(),
                                        .sequences = sequences,
                                        .num_heads = shape.heads,
                                        .num_kv_heads = shape.kv_heads,
                                        .head_dim = shape.head_dim,
                                        .mask = mask,
                                        .dtype = DType::bf16},
                                       stream_);
           }));
  }

 private:
  Tensor random(const Shape& shape) {
    Tensor tensor = Tensor::empty(gpu_, shape, DType::bf16);
    table_.elementwise.random_normal({.y = tensor.raw(),
                                      .rows = 1,
                                      .width = tensor.num_elements(),
                                      .global_width = tensor.num_elements(),
                                      .key = {.seed = 1, .step = 0, .site = ++site_},
                                      .dtype = DType::bf16},
                                     stream_);
    return tensor;
  }

  template <typename Body>
  double time_of(const Body& body) {
    using Clock = std::chrono::steady_clock;
    for (int i = 0; i < 3; ++i) body();
    gpu_->synchronize();
    int repeats = 1;
    double seconds = 0;
    while (true) {
      auto start = Clock::now();
      for (int i = 0; i < repeats; ++i) body();
      gpu_->synchronize();
      seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (seconds > 0.02) return seconds / repeats;
      repeats *= 4;
    }
  }

  void report(const char* name, const char* what, double flops, double seconds) const {
    fmt::print("{:34} {:9}: {:8.3f} ms, {:5.0f} TFLOP/s, {:5.1f} % of the matrix peak\n",
               name,
               what,
               seconds * 1e3,
               flops / seconds / 1e12,
               100 * flops / seconds / peaks_.matmul_flops_per_second);
  }

  std::shared_ptr<Allocator> gpu_;
  Stream stream_;
  const KernelTable& table_ = kernels(DeviceType::cuda);
  MachinePeaks peaks_;
  uint32_t site_ = 0;
};

struct AttentionCase {
  Bench::Shape4 shape;
  AttentionMask mask;
  const char* what;
};

const std::vector<AttentionCase>& attention_cases() {
  static const AttentionMask causal{.scale = 0.1f};
  static const std::vector<AttentionCase> all = {
      {{4, 4096, 32, 8, 128}, causal, "causal"},
      {{4, 4096, 32, 8, 128}, {.scale = 0.1f, .causal = false}, "full"},
      {{1, 16384, 32, 8, 128}, causal, "causal"},
      {{1, 4096, 12, 2, 128}, causal, "causal"},
      {{4, 4096, 32, 32, 64}, causal, "causal"},
      {{4, 4096, 16, 8, 256}, causal, "causal"},
      {{4, 4096, 16, 8, 256}, {.scale = 0.1f, .soft_cap = 50, .window = 2048}, "cap, window"}};
  return all;
}

/// Few rows, products, attention, or the case of attention with this number.
void run(const std::string& part) {
  Bench bench(make_cuda_allocator(0));
  if (part == "few_rows") {
    for (int64_t rows : {1, 4, 8, 16}) {
      bench.few_rows("576 qkv", 576, {576, 192, 192}, rows);
      bench.few_rows("2304 gate up", 2304, {9216, 9216}, rows);
      bench.few_rows("4096 o", 4096, {4096}, rows);
      bench.few_rows("4096 gate up", 4096, {14336, 14336}, rows);
      bench.few_rows("14336 down", 14336, {4096}, rows);
      bench.few_rows("2304 head", 2304, {256000}, rows);
    }
  } else if (part == "products") {
    bench.products("4096 x 4096 x 4096", 4096, 4096, 4096);
    bench.products("4096 x 4096 x 14336", 4096, 4096, 14336);
    bench.products("8192 x 8192 x 8192", 8192, 8192, 8192);
  } else {
    for (size_t i = 0; i < attention_cases().size(); ++i) {
      const AttentionCase& one = attention_cases()[i];
      if (part == "attention" || part == std::to_string(i)) bench.attention(one.shape, one.mask, one.what);
    }
  }
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  if (weft::cuda_device_count() == 0) {
    fmt::print("SKIPPED, not measured: {}\n", weft::no_cuda_reason());
    return 0;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<std::string> parts(argv + 1, argv + argc);
  if (parts.empty()) parts = {"few_rows", "products", "attention"};
  for (const std::string& part : parts) weft::run(part);
  return 0;
}
