// Speed of the vector kernels at the shapes of real models: GFLOP/s of attention, GB/s of what memory bounds. Not a
// test: run by hand.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "core/memory.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

namespace weft {
namespace {

/// Processor time a thread: what other processes on the machine take does not count.
double processor_seconds(int num_threads) {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return (static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec)) / num_threads;
}

double median_seconds(int num_threads, const std::function<void()>& body) {
  double begin = processor_seconds(num_threads);
  body();
  double once = std::max(1e-7, processor_seconds(num_threads) - begin);
  int repeats = static_cast<int>(std::clamp(2e-4 / once, 1.0, 1000.0));  // the clock's own reading costs
  std::vector<double> seconds;
  double start = processor_seconds(num_threads);
  while (seconds.size() < 5 || processor_seconds(num_threads) - start < 0.15) {
    begin = processor_seconds(num_threads);
    for (int i = 0; i < repeats; ++i) body();
    seconds.push_back((processor_seconds(num_threads) - begin) / repeats);
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

/// Random bf16 or f32 numbers of size 1.
std::vector<std::byte> random_elements(int64_t count, DType dtype) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  std::vector<std::byte> bytes(static_cast<size_t>(count) * dtype_bytes(dtype));
  convert_dtype(values.data(), DType::f32, bytes.data(), dtype, count);
  return bytes;
}

struct Shape {
  const char* model;
  int64_t num_heads, num_kv_heads, head_dim;
  float soft_cap;
};
constexpr Shape kShapes[] = {{"SmolLM2-135M", 9, 3, 64, 0}, {"Llama3-8B", 32, 8, 128, 0}, {"Gemma2-2B", 8, 4, 256, 50}};

void bench_attention(
    const Shape& shape, DType dtype, int64_t batch, int64_t queries, int64_t keys, const Stream& stream) {
  auto q = random_elements(batch * queries * shape.num_heads * shape.head_dim, dtype);
  auto k = random_elements(batch * keys * shape.num_kv_heads * shape.head_dim, dtype);
  auto v = random_elements(batch * keys * shape.num_kv_heads * shape.head_dim, dtype);
  std::vector<std::byte> out(q.size());
  std::vector<AttentionSequence> sequences;
  size_t sequence_bytes = k.size() / static_cast<size_t>(batch);
  for (int64_t i = 0; i < batch; ++i) {
    sequences.push_back({.query_begin = i * queries,
                         .query_count = queries,
                         .key_count = keys,
                         .keys = k.data() + static_cast<size_t>(i) * sequence_bytes,
                         .values = v.data() + static_cast<size_t>(i) * sequence_bytes,
                         .key_token_stride = shape.head_dim,
                         .key_head_stride = keys * shape.head_dim});
  }
  AttentionForwardArgs args{.q = q.data(),
                            .out = out.data(),
                            .log_sum_exp = nullptr,
                            .sequences = sequences,
                            .num_heads = shape.num_heads,
                            .num_kv_heads = shape.num_kv_heads,
                            .head_dim = shape.head_dim,
                            .mask = {.scale = 0.1f, .soft_cap = shape.soft_cap},
                            .dtype = dtype};
  double seconds =
      median_seconds(stream.num_threads, [&] { kernels(DeviceType::cpu).attention.forward(args, stream); });
  double pairs =
      static_cast<double>(batch * queries) * (static_cast<double>(keys) - 0.5 * static_cast<double>(queries - 1));
  double flops = 4 * pairs * static_cast<double>(shape.num_heads * shape.head_dim);
  fmt::print("{:14} {:5} batch {} queries {:5} keys {:5} threads {}: {:9.1f} us {:8.1f} GFLOP/s {:7.1f} GB/s\n",
             shape.model,
             dtype_name(dtype),
             batch,
             queries,
             keys,
             stream.num_threads,
             seconds * 1e6,
             flops / seconds * 1e-9,
             static_cast<double>(k.size() + v.size()) / seconds * 1e-9);
}

void bench_streaming(int64_t rows, DType dtype, const Stream& stream) {
  constexpr int64_t kWidth = 576, kIntermediate = 1536;
  auto x = random_elements(rows * kIntermediate, dtype), residual = random_elements(rows * kIntermediate, dtype);
  auto weight = random_elements(kIntermediate, dtype);
  std::vector<std::byte> sum(x.size()), y(x.size());
  const KernelTable& table = kernels(DeviceType::cpu);
  auto report = [&](const char* name, double seconds, int64_t elements) {
    fmt::print("{:14} {:5} rows {:5} threads {}: {:9.2f} us {:7.1f} GB/s\n",
               name,
               dtype_name(dtype),
               rows,
               stream.num_threads,
               seconds * 1e6,
               static_cast<double>(elements) * static_cast<double>(dtype_bytes(dtype)) / seconds * 1e-9);
  };
  RmsNormForwardArgs norm{.x = x.data(),
                          .residual = residual.data(),
                          .weight = weight.data(),
                          .sum = sum.data(),
                          .y = y.data(),
                          .inv_rms = nullptr,
                          .rows = rows,
                          .width = kWidth,
                          .dtype = dtype};
  report(
      "rms_norm", median_seconds(stream.num_threads, [&] { table.rms_norm.forward(norm, stream); }), 4 * rows * kWidth);
  for (Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf}) {
    GatedActivationForwardArgs gated{.gate = x.data(),
                                     .up = residual.data(),
                                     .y = y.data(),
                                     .count = rows * kIntermediate,
                                     .activation = activation,
                                     .dtype = dtype};
    constexpr const char* kNames[] = {"silu", "gelu_tanh", "gelu_erf"};
    report(kNames[static_cast<size_t>(activation)],
           median_seconds(stream.num_threads, [&] { table.activation.gated_forward(gated, stream); }),
           3 * rows * kIntermediate);
  }
  std::vector<float> cos_sin(static_cast<size_t>(rows) * 64, 0.7f);
  RopeArgs rope{.x = x.data(),
                .cos_sin = cos_sin.data(),
                .rows = rows,
                .num_heads = 9,
                .head_dim = 64,
                .rotary_dim = 64,
                .dtype = dtype};
  report("rope", median_seconds(stream.num_threads, [&] { table.rope.rotate(rope, stream); }), 2 * rows * kWidth);
  SoftmaxArgs softmax{.x = x.data(), .y = y.data(), .rows = rows, .width = kIntermediate, .dtype = dtype};
  report("softmax",
         median_seconds(stream.num_threads, [&] { table.elementwise.softmax(softmax, stream); }),
         2 * rows * kIntermediate);
}

/// RWKV-6 1.6B: a prompt in both forms, its backward, and one token of each of several sequences. A head's rows lie
/// pages apart: memory is the allocator's (huge pages), as in models.
void bench_wkv(DType dtype, const Stream& stream) {
  constexpr int64_t kHeads = 32, kSize = 64, kWidth = kHeads * kSize, kTokens = 4096, kBatch = 8;
  std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  auto random = [&](int64_t rows, DType type) {
    Tensor tensor = Tensor::empty(allocator, {rows, kWidth}, type);
    std::memcpy(tensor.raw(), random_elements(rows * kWidth, type).data(), tensor.bytes());
    return tensor;
  };
  Tensor r = random(kTokens, dtype), k = random(kTokens, dtype), v = random(kTokens, dtype),
         w = random(kTokens, DType::f32), u = random(1, dtype), dy = random(kTokens, dtype);
  Tensor y = random(kTokens, dtype), dr = random(kTokens, dtype), dk = random(kTokens, dtype),
         dv = random(kTokens, dtype), dw = random(kTokens, DType::f32), du = random(1, DType::f32);
  Tensor states = random(kBatch * kSize, DType::f32), boundaries = random(wkv_boundaries(kTokens) * kSize, DType::f32);
  std::vector<WkvSequence> prompt = {{.length = kTokens}}, tokens;
  for (int64_t i = 0; i < kBatch; ++i) {
    float* state = states.data<float>() + i * kWidth * kSize;
    tokens.push_back({.begin = i, .length = 1, .initial_state = state, .final_state = state});
  }
  WkvForwardArgs args{.r = r.raw(),
                      .k = k.raw(),
                      .v = v.raw(),
                      .w = w.raw(),
                      .u = u.raw(),
                      .y = y.raw(),
                      .sequences = prompt,
                      .num_heads = kHeads,
                      .head_size = kSize,
                      .dtype = dtype};
  const WkvKernels& wkv = kernels(DeviceType::cpu).wkv;
  auto report = [&](const char* name, int64_t count, const std::function<void()>& body) {
    double seconds = median_seconds(stream.num_threads, body);
    fmt::print("wkv {:10} {:5} tokens {:5} threads {}: {:9.2f} us {:9.0f} tokens/s\n",
               name,
               dtype_name(dtype),
               count,
               stream.num_threads,
               seconds * 1e6,
               static_cast<double>(count) / seconds);
  };
  report("chunked", kTokens, [&] { wkv.forward(args, stream); });
  report("recurrent", kTokens, [&] { wkv.recurrent(args, stream); });
  args.boundary_states = boundaries.raw();
  wkv.forward(args, stream);
  WkvBackwardArgs backward{
      .forward = args, .dy = dy.raw(), .dr = dr.raw(), .dk = dk.raw(), .dv = dv.raw(), .dw = dw.raw(), .du = du.raw()};
  report("backward", kTokens, [&] { wkv.backward(backward, stream); });
  args.boundary_states = nullptr;
  for (int64_t batch : {int64_t{1}, kBatch}) {
    args.sequences = std::span(tokens).first(static_cast<size_t>(batch));
    report("decode", batch, [&] { wkv.forward(args, stream); });
  }
  for (int64_t length : {8, 12, 16, 256}) {
    prompt[0].length = length;
    args.sequences = prompt;
    report("chunked", length, [&] { wkv.forward(args, stream); });
    report("recurrent", length, [&] { wkv.recurrent(args, stream); });
  }
}

void run_all() {
  auto allocator = make_cpu_allocator();
  int threads = std::getenv("THREADS") != nullptr ? std::atoi(std::getenv("THREADS")) : 2;
  Stream stream{.device = {}, .num_threads = threads, .workspace = allocator.get()};
  for (DType dtype : {DType::bf16, DType::f32}) {
    bench_wkv(dtype, stream);
    for (const Shape& shape : kShapes) {
      bench_attention(shape, dtype, 1, 512, 512, stream);
      bench_attention(shape, dtype, 1, 2048, 2048, stream);
      for (int64_t batch : {1, 8}) {
        for (int64_t keys : {16, 128, 512, 2048, 8192}) bench_attention(shape, dtype, batch, 1, keys, stream);
      }
    }
    for (int64_t rows : {1, 8, 512}) bench_streaming(rows, dtype, stream);
  }
}

}  // namespace
}  // namespace weft

int main() {
  weft::run_all();
  return 0;
}
