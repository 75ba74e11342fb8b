// How close the CUDA kernels come to what the GPU allows: products of few rows, whole and quantized weights, against
// its memory's bandwidth, large products and attention against its matrix peak, all measured in the same run on random
// data. And what choosing tokens takes.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/bare_cublas.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/attention_parts.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda_devices.h"
#include "kernels/kernels.h"

namespace weft {
namespace {

class Bench {
 public:
  explicit Bench(std::shared_ptr<Allocator> gpu)
      : gpu_(std::move(gpu)),
        stream_{.device = gpu_->device(), .num_threads = 1, .workspace = gpu_.get()},
        cublas_(cuda::device_of(stream_).stream()) {
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

  struct QuantizedCase {
    const char* name;
    int64_t depth;
    std::vector<int64_t> features;
    bool is_gated = false;
  };

  /// The same with quantized weights, all sets in one step, which runs as a graph as decoding does.
  void quantized(const QuantizedCase& test, Layout layout, int64_t rows) {
    int64_t bytes = 0;
    for (int64_t count : test.features) bytes += packed_bytes(count, test.depth, layout);
    auto sets = static_cast<int64_t>(std::clamp(256e6 / static_cast<double>(bytes), 1.0, 64.0));
    Tensor weights = random({sets * bytes / 2}), x = random({rows, test.depth});
    int64_t total = 0;
    for (int64_t count : test.features) total += count;
    Tensor y = random({rows, total});
    uint64_t key = 1000 + ++site_;
    double seconds = time_of([&] {
      gpu_->run_step(key,
                     [&] {
                       for (int64_t set = 0; set < sets; ++set)
                         multiply_quantized(test, layout, x, weights, set * bytes, y);
                     },
                     {});
    });
    seconds /= static_cast<double>(sets);
    fmt::print("{} {:14} rows {:3}: {:8.1f} us, {:6.0f} GB/s, {:5.1f} % of reading\n",
               layout == Layout::int4 ? "int4" : "int8",
               test.name,
               rows,
               seconds * 1e6,
               static_cast<double>(bytes) / seconds / 1e9,
               100 * static_cast<double>(bytes) / seconds / peaks_.memory_bytes_per_second);
  }

  void products(const char* name, int64_t rows, int64_t depth, int64_t features) {
    Tensor x = random({rows, depth}), weight = random({features, depth}), y = random({rows, features});
    Tensor dweight = Tensor::empty(gpu_, {features, depth}, DType::f32);
    LinearWeight one{.weight = weight.raw(), .y = y.raw(), .out_features = features};
    double flops = 2.0 * static_cast<double>(rows * depth) * static_cast<double>(features);
    auto forward = [&] {
      table_.linear.forward({.x = x.raw(),
                             .weights = {&one, 1},
                             .rows = rows,
                             .in_features = depth,
                             .dtype = DType::bf16,
                             .y_dtype = DType::bf16},
                            stream_);
    };
    auto dx = [&] {
      table_.linear.backward_input({.dy = y.raw(),
                                    .weight = weight.raw(),
                                    .dx = x.raw(),
                                    .rows = rows,
                                    .out_features = features,
                                    .in_features = depth,
                                    .dtype = DType::bf16},
                                   stream_);
    };
    auto dw = [&] {
      table_.linear.backward_weight({.dy = y.raw(),
                                     .x = x.raw(),
                                     .dw = dweight.raw(),
                                     .rows = rows,
                                     .out_features = features,
                                     .in_features = depth,
                                     .dtype = DType::bf16},
                                    stream_);
    };
    beside_cublas(
        name,
        "forward",
        flops,
        forward,
        {.a = x.raw(), .b = weight.raw(), .c = y.raw(), .m = rows, .n = features, .k = depth, .transpose_b = true});
    beside_cublas(
        name, "dx", flops, dx, {.a = y.raw(), .b = weight.raw(), .c = x.raw(), .m = rows, .n = depth, .k = features});
    beside_cublas(name,
                  "dw",
                  flops,
                  dw,
                  {.a = y.raw(),
                   .b = x.raw(),
                   .c = dweight.raw(),
                   .m = features,
                   .n = depth,
                   .k = rows,
                   .transpose_a = true,
                   .c_dtype = DType::f32});
  }

  struct Shape4 {
    int64_t batch, length, heads, kv_heads, head_dim;
  };

  /// Pairs of a query and a key that it sees; windows only beside causal masks.
  static double seen_pairs(const Shape4& shape, const AttentionMask& mask) {
    auto length = static_cast<double>(shape.length), batch = static_cast<double>(shape.batch);
    if (!mask.causal) return batch * length * length;
    double unseen = mask.window > 0 ? std::max(length - static_cast<double>(mask.window), 0.0) : 0;
    return batch * (length * length - unseen * unseen) / 2;
  }

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
    double flops = 4.0 * seen_pairs(shape, mask) * static_cast<double>(shape.heads * shape.head_dim);
    AttentionForwardArgs forward{.q = q.raw(),
                                 .out = out.raw(),
                                 .log_sum_exp = log_sum_exp.raw(),
                                 .sequences = sequences,
                                 .num_heads = shape.heads,
                                 .num_kv_heads = shape.kv_heads,
                                 .head_dim = shape.head_dim,
                                 .mask = mask,
                                 .dtype = DType::bf16};
    AttentionBackwardArgs backward{.q = q.raw(),
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
                                   .dtype = DType::bf16};
    cuda::CudaDevice& device = cuda::device_of(stream_);
    cuda::CudnnAttention& cudnn = cuda::cudnn_attention(device);
    double own = time_of([&] { cuda::attention_forward_tiles(forward, device); });
    report(name.c_str(), "attention", flops, own);
    beside_cudnn(name.c_str(), "attention", flops, own, [&] { return cudnn.forward(forward, device); });
    own = time_of([&] { cuda::attention_backward(backward, device); });
    report(name.c_str(), "backward", 2.5 * flops, own);
    beside_cudnn(name.c_str(), "backward", 2.5 * flops, own, [&] { return cudnn.backward(backward, false, device); });
  }

  /// As part of a graph, as in decoding.
  void sampling(const char* name, int64_t rows, int64_t width, const SampleChoice& choice) {
    if (table_.sampling.sample == nullptr) return;
    Tensor logits = random({rows, width}, DType::f32, 3), ids = Tensor::empty(gpu_, {rows}, DType::i32);
    std::vector<SampleChoice> choices(static_cast<size_t>(rows), choice);
    auto sample = [&] {
      table_.sampling.sample({.logits = logits.pointer<float>(),
                              .ids = ids.pointer<int32_t>(),
                              .choices = choices.data(),
                              .rows = rows,
                              .width = width},
                             stream_);
    };
    double seconds = time_of([&] {
      for (SampleChoice& one : choices) ++one.step;
      gpu_->run_step(1, sample);
    });
    fmt::print("{:14} rows {:3} of {:6}: {:8.1f} us\n", name, rows, width, seconds * 1e6);
  }

 private:
  int64_t packed_bytes(int64_t features, int64_t depth, Layout layout) const {
    return static_cast<int64_t>(table_.linear.packed_bytes(features, depth, DType::bf16, layout));
  }

  /// Weights that lie one behind the other from `offset` on.
  void multiply_quantized(const QuantizedCase& test,
                          Layout layout,
                          const Tensor& x,
                          const Tensor& weights,
                          int64_t offset,
                          const Tensor& y) {
    std::vector<LinearWeight> group;
    const auto* packed = static_cast<const std::byte*>(weights.raw()) + offset;
    auto* out = static_cast<std::byte*>(const_cast<void*>(y.raw()));
    for (int64_t count : test.features) {
      group.push_back({.weight = packed, .y = out, .out_features = count, .layout = layout});
      packed += packed_bytes(count, test.depth, layout);
      out += x.size(0) * count * 2;
    }
    GatedLinearArgs gated{.x = x.raw(),
                          .gate = group[0].weight,
                          .up = group.back().weight,
                          .y = group[0].y,
                          .rows = x.size(0),
                          .in_features = test.depth,
                          .out_features = test.features[0],
                          .activation = Activation::gelu_tanh,
                          .dtype = DType::bf16,
                          .layout = layout};
    if (test.is_gated && table_.linear.gated_forward(gated, stream_)) return;
    table_.linear.forward({.x = x.raw(),
                           .weights = group,
                           .rows = x.size(0),
                           .in_features = test.depth,
                           .dtype = DType::bf16,
                           .y_dtype = DType::bf16},
                          stream_);
  }

  Tensor random(const Shape& shape, DType dtype = DType::bf16, float deviation = 1) {
    Tensor tensor = Tensor::empty(gpu_, shape, dtype);
    table_.elementwise.random_normal({.y = tensor.raw(),
                                      .rows = 1,
                                      .width = tensor.num_elements(),
                                      .global_width = tensor.num_elements(),
                                      .deviation = deviation,
                                      .key = {.seed = 1, .step = 0, .site = ++site_},
                                      .dtype = dtype},
                                     stream_);
    return tensor;
  }

  /// Ours and cuBLAS's in turns, since the GPU's clock follows its temperature; medians of both.
  template <typename Body>
  void beside_cublas(const char* name, const char* what, double flops, const Body& ours, const BareProduct& theirs) {
    constexpr int kTurns = 5;
    std::vector<double> own, bare;
    for (int turn = 0; turn < kTurns; ++turn) {
      own.push_back(time_of(ours));
      if (cublas_.is_there()) bare.push_back(time_of([&] { cublas_.multiply(theirs); }));
    }
    report(name, what, flops, median(own));
    if (bare.empty()) return;
    fmt::print("{:34} cuBLAS   : {:8.3f} ms; ours is {:5.1f} % as fast\n",
               name,
               median(bare) * 1e3,
               100 * median(bare) / median(own));
  }

  static double median(std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
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

  /// cuDNN's time for the same, and what ours comes to beside it.
  template <typename Call>
  void beside_cudnn(const char* name, const char* what, double flops, double own_seconds, const Call& call) {
    if (!call()) {
      fmt::print("{:34} {:9}: no cuDNN to compare with: {}\n",
                 name,
                 what,
                 cuda::cudnn_attention(cuda::device_of(stream_)).reason());
      return;
    }
    double seconds = time_of(call);
    fmt::print("{:34} {:9}: {:8.3f} ms, {:5.0f} TFLOP/s by cuDNN; own / cuDNN {:5.1f} %\n",
               name,
               what,
               seconds * 1e3,
               flops / seconds / 1e12,
               100 * seconds / own_seconds);
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
  BareCublas cublas_;
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
      {{4, 4096, 16, 8, 256}, {.scale = 0.1f, .soft_cap = 50, .window = 2048}, "cap, window"},
      {{4, 4096, 32, 8, 128}, {.scale = 0.1f, .window = 1024}, "window 1024"},
      {{4, 4096, 32, 8, 128}, {.scale = 0.1f, .soft_cap = 50}, "cap"}};
  return all;
}

/// Few rows, with quantized weights as well, sampling, products, attention, or the case of attention with this number.
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
  } else if (part == "quantized") {
    const std::vector<Bench::QuantizedCase> cases = {{"2304 qkv", 2304, {2048, 1024, 1024}},
                                                     {"2048 o", 2048, {2304}},
                                                     {"2304 gated", 2304, {9216, 9216}, true},
                                                     {"9216 down", 9216, {2304}},
                                                     {"2304 head", 2304, {256000}}};
    for (Layout layout : {Layout::int8, Layout::int4}) {
      for (int64_t rows : {1, 4, 16}) {
        for (const Bench::QuantizedCase& one : cases) bench.quantized(one, layout, rows);
      }
    }
  } else if (part == "sampling") {
    for (int64_t rows : {1, 8, 16}) {
      for (int64_t width : {32000, 151936, 256000}) {
        bench.sampling("greedy", rows, width, {.is_greedy = 1});
        bench.sampling("temperature", rows, width, {});
        bench.sampling("top_p", rows, width, {.top_p = 0.95});
        bench.sampling("top_k top_p", rows, width, {.top_p = 0.95, .top_k = 50});
      }
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
  if (parts.empty()) parts = {"few_rows", "quantized", "sampling", "products", "attention"};
  for (const std::string& part : parts) weft::run(part);
  return 0;
}
