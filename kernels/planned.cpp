#include "kernels/planned.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "kernels/cpu/loops.h"
#include "kernels/kernel_scratch.h"

namespace weft {
namespace {

/// Of blocks that have a place of their own.
constexpr size_t kMaxOwnBytes = size_t{64} << 10;

bool has_own_place(size_t bytes) {
  return bytes <= kMaxOwnBytes;
}

/// Takes scratch and lets it go.
void touch(const Stream& stream, int64_t bytes) {
  if (bytes == 0 || stream.workspace == nullptr) return;
  auto size = static_cast<size_t>(bytes);
  stream.workspace->deallocate(stream.workspace->allocate(size, MemoryTag::workspace), size, MemoryTag::workspace);
}

void* zeros(size_t bytes) {
  constexpr size_t kAlignment = 64;
  size_t size = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* pointer = std::aligned_alloc(kAlignment, size);
  if (pointer != nullptr) std::memset(pointer, 0, size);
  return pointer;
}

/// What the host computes with.
class HostAllocator final : public Allocator {
 public:
  explicit HostAllocator(std::shared_ptr<PlannedAllocator> counter) : counter_(std::move(counter)) {}

  void* allocate(size_t bytes, MemoryTag tag) override {
    void* pointer = zeros(bytes);
    if (pointer == nullptr) fail(ExitCode::out_of_memory, "out of memory while a plan was made");
    counter_->count(tag, static_cast<int64_t>(bytes));
    return pointer;
  }
  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override {
    counter_->count(tag, -static_cast<int64_t>(bytes));
    std::free(pointer);
  }
  MemoryTracker& memory() override { return counter_->memory(); }

 private:
  std::shared_ptr<PlannedAllocator> counter_;
};

template <typename Result, typename... Args>
Result compute_nothing(Args... /*args*/) {
  return Result();
}

template <typename Kernels, typename Result, typename... Args>
constexpr auto stand_in(Result (*Kernels::*)(Args...)) {
  return &compute_nothing<Result, Args...>;
}

void linear_forward(const LinearForwardArgs& args, const Stream& stream) {
  int64_t bytes = 0;
  for (const LinearWeight& weight : args.weights) {
    LinearSizes sizes{.rows = args.rows, .out_features = weight.out_features, .in_features = args.in_features};
    int64_t spread = spread_rows_scratch(args.dtype, args.rows, args.in_features, stream.num_threads);
    bytes = std::max(bytes,
                     weight.layout == Layout::row_major ? linear_forward_scratch(args.dtype, sizes, stream.num_threads)
                     : weight.layout == Layout::packed
                         ? spread
                         : spread + quantized_linear_scratch(args.dtype, sizes, stream.num_threads));
  }
  touch(stream, bytes);
}

void linear_backward_input(const LinearBackwardInputArgs& args, const Stream& stream) {
  touch(
      stream,
      linear_backward_input_scratch(args.dtype, {args.rows, args.out_features, args.in_features}, stream.num_threads));
}

void linear_backward_weight(const LinearBackwardWeightArgs& args, const Stream& stream) {
  if (args.dw == nullptr) return;
  touch(stream, linear_backward_weight_scratch(args.dtype, {args.rows, args.out_features, args.in_features}));
}

size_t packed_bytes(int64_t out_features, int64_t in_features, DType dtype, Layout layout) {
  return kernels(DeviceType::cpu).linear.packed_bytes(out_features, in_features, dtype, layout);
}

void rms_norm_backward(const RmsNormBackwardArgs& args, const Stream& stream) {
  touch(stream, rms_norm_backward_scratch(args.rows));
}

void layer_norm_backward(const LayerNormBackwardArgs& args, const Stream& stream) {
  touch(stream, layer_norm_backward_scratch(args.rows));
}

int64_t attention_threads(size_t sequences, int64_t num_kv_heads, const Stream& stream) {
  return std::clamp<int64_t>(static_cast<int64_t>(sequences) * num_kv_heads, 1, std::max(1, stream.num_threads));
}

/// Sequences with several queries go the way of prompts, the others that of answers.
void attention_forward(const AttentionForwardArgs& args, const Stream& stream) {
  int64_t longest = 0, rows = 0, num_pieces = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    if (sequence.query_count > 1 || args.dropout.drops()) {
      longest = std::max(longest, sequence.query_count);
      rows += sequence.query_count * args.num_heads;
    } else {
      int64_t keys = args.mask.window > 0 ? std::min(args.mask.window, sequence.key_count) : sequence.key_count;
      num_pieces += decode_pieces(keys);
    }
  }
  if (longest > 0) {
    int64_t queries =
        std::min(longest, queries_per_piece(rows, args.num_heads / args.num_kv_heads, stream.num_threads));
    touch(stream, cpu_loops().attention_forward_scratch(args, queries) * std::max(1, stream.num_threads));
  }
  touch(stream, num_pieces * args.num_heads * (args.head_dim + 2) * static_cast<int64_t>(sizeof(float)));
}

void attention_backward(const AttentionBackwardArgs& args, const Stream& stream) {
  int64_t longest = 0;
  for (const AttentionSequence& sequence : args.sequences) longest = std::max(longest, sequence.key_count);
  touch(stream,
        cpu_loops().attention_backward_scratch(args, longest) *
            attention_threads(args.sequences.size(), args.num_kv_heads, stream));
}

int64_t wkv_threads(const WkvForwardArgs& args, const Stream& stream) {
  auto heads = static_cast<int64_t>(args.sequences.size()) * args.num_heads;
  return std::clamp<int64_t>(heads, 1, std::max(1, stream.num_threads));
}

void wkv_forward(const WkvForwardArgs& args, const Stream& stream) {
  touch(stream, cpu_loops().wkv_forward_scratch(args) * wkv_threads(args, stream));
}

void wkv_backward(const WkvBackwardArgs& args, const Stream& stream) {
  int64_t element = args.forward.dtype == DType::f64 ? sizeof(double) : sizeof(float);
  auto sequences = static_cast<int64_t>(args.forward.sequences.size());
  int64_t bonus = sequences * args.forward.num_heads * args.forward.head_size * element + 1;
  touch(stream, bonus + cpu_loops().wkv_backward_scratch(args) * wkv_threads(args.forward, stream));
}

/// Outside of blocks a pass over a model begins with it.
void embedding_forward(const EmbeddingForwardArgs& /*args*/, const Stream& stream) {
  if (auto* allocator = dynamic_cast<PlannedAllocator*>(stream.workspace)) allocator->begin("forward");
}

/// Sums of rows and columns for each thread.
void factored_sums(const FactoredSumsArgs& args, const Stream& stream) {
  constexpr int64_t kBlock = int64_t{32} << 10;
  if (args.count == 0) return;
  int64_t first = args.map.full_index(0), last = args.map.full_index(args.count - 1);
  int64_t matrix = args.rows * args.columns;
  int64_t rows = last / args.columns - first / args.columns + 1;
  int64_t columns = (last / matrix - first / matrix + 1) * args.columns;
  int64_t threads = std::min<int64_t>(stream.num_threads, (args.count + kBlock - 1) / kBlock);
  touch(stream, threads * (rows + columns) * static_cast<int64_t>(sizeof(double)));
}

}  // namespace

PlannedAllocator::~PlannedAllocator() {
  for (auto& [size, place] : places_) munmap(place, size);
}

void* PlannedAllocator::allocate(size_t bytes, MemoryTag tag) {
  void* pointer = has_own_place(bytes) ? zeros(bytes) : shared_place(bytes);
  if (pointer == nullptr) fail(ExitCode::out_of_memory, "out of memory while a plan was made");
  count(tag, static_cast<int64_t>(bytes));
  return pointer;
}

void PlannedAllocator::deallocate(void* pointer, size_t bytes, MemoryTag tag) {
  count(tag, -static_cast<int64_t>(bytes));
  if (has_own_place(bytes)) std::free(pointer);
}

void PlannedAllocator::count(MemoryTag tag, int64_t bytes) {
  std::lock_guard lock(mutex_);
  tracker_.add(tag, bytes);
  current_[static_cast<size_t>(tag)] += bytes;
  total_ += bytes;
  if (total_ <= peak_total_) return;
  peak_total_ = total_;
  at_peak_ = current_;
  peak_moment_ = moment_;
}

std::shared_ptr<Allocator> PlannedAllocator::make_host_allocator() {
  return std::make_shared<HostAllocator>(shared_from_this());
}

/// Addresses only: memory would come with the first touch of a page.
void* PlannedAllocator::shared_place(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (!places_.empty() && places_.rbegin()->first >= bytes) return places_.rbegin()->second;
  size_t size = std::bit_ceil(bytes);
  void* place = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  places_[size] = place;
  return place;
}

void PlannedAllocator::copy_from_host(void* to, const void* from, size_t bytes) {
  if (has_own_place(bytes)) Allocator::copy_from_host(to, from, bytes);
}

void PlannedAllocator::copy_to_host(void* to, const void* from, size_t bytes) {
  if (has_own_place(bytes)) Allocator::copy_to_host(to, from, bytes);
}

void PlannedAllocator::copy_within(void* to, const void* from, size_t bytes) {
  if (has_own_place(bytes)) Allocator::copy_within(to, from, bytes);
}

void PlannedAllocator::fill_zero(void* to, size_t bytes) {
  if (has_own_place(bytes)) Allocator::fill_zero(to, bytes);
}

void PlannedAllocator::begin(std::string_view moment) {
  std::lock_guard lock(mutex_);
  moment_ = moment;
}

BytesByTag PlannedAllocator::peaks() const {
  BytesByTag result{};
  for (size_t tag = 0; tag < kNumMemoryTags; ++tag) result[tag] = tracker_.peak(static_cast<MemoryTag>(tag));
  return result;
}

const KernelTable& planned_kernels() {
  static const KernelTable table = {
      .linear = {.forward = linear_forward,
                 .backward_input = linear_backward_input,
                 .backward_weight = linear_backward_weight,
                 .packed_bytes = packed_bytes,
                 .pack = stand_in(&LinearKernels::pack),
                 .unpack_rows = stand_in(&LinearKernels::unpack_rows)},
      .rms_norm = {.forward = stand_in(&RmsNormKernels::forward), .backward = rms_norm_backward},
      .layer_norm = {.forward = stand_in(&LayerNormKernels::forward), .backward = layer_norm_backward},
      .rope = {.table = stand_in(&RopeKernels::table), .rotate = stand_in(&RopeKernels::rotate)},
      .attention = {.forward = attention_forward,
                    .backward = attention_backward,
                    .cache_write = stand_in(&AttentionKernels::cache_write),
                    .bias_expand = stand_in(&AttentionKernels::bias_expand),
                    .bias_reduce = stand_in(&AttentionKernels::bias_reduce)},
      .relative_attention = {.forward = stand_in(&RelativeAttentionKernels::forward),
                             .backward = stand_in(&RelativeAttentionKernels::backward)},
      .wkv = {.forward = wkv_forward, .recurrent = wkv_forward, .backward = wkv_backward},
      .token_shift = {.forward = stand_in(&TokenShiftKernels::forward),
                      .backward = stand_in(&TokenShiftKernels::backward)},
      .activation = {.forward = stand_in(&ActivationKernels::forward),
                     .backward = stand_in(&ActivationKernels::backward),
                     .gated_forward = stand_in(&ActivationKernels::gated_forward),
                     .gated_backward = stand_in(&ActivationKernels::gated_backward)},
      .embedding = {.forward = embedding_forward,
                    .backward = stand_in(&EmbeddingKernels::backward),
                    .gather_rows = stand_in(&EmbeddingKernels::gather_rows)},
      .elementwise = {.axpby = stand_in(&ElementwiseKernels::axpby),
                      .soft_cap = stand_in(&ElementwiseKernels::soft_cap),
                      .soft_cap_backward = stand_in(&ElementwiseKernels::soft_cap_backward),
                      .softmax = stand_in(&ElementwiseKernels::softmax),
                      .softmax_backward = stand_in(&ElementwiseKernels::softmax_backward),
                      .dropout = stand_in(&ElementwiseKernels::dropout),
                      .transpose = stand_in(&ElementwiseKernels::transpose),
                      .column_scale = stand_in(&ElementwiseKernels::column_scale),
                      .column_scale_backward = stand_in(&ElementwiseKernels::column_scale_backward),
                      .argmax = stand_in(&ElementwiseKernels::argmax)},
      .cross_entropy = {.row_statistics = stand_in(&CrossEntropyKernels::row_statistics),
                        .backward = stand_in(&CrossEntropyKernels::backward)},
      .optimizer = {.adam = stand_in(&OptimizerKernels::adam),
                    .adam_norms = stand_in(&OptimizerKernels::adam_norms),
                    .lion = stand_in(&OptimizerKernels::lion),
                    .apply_update = stand_in(&OptimizerKernels::apply_update),
                    .average = stand_in(&OptimizerKernels::average),
                    .load_master = stand_in(&OptimizerKernels::load_master),
                    .store_master = stand_in(&OptimizerKernels::store_master),
                    .sum_of_squares = stand_in(&OptimizerKernels::sum_of_squares),
                    .sum_of_all_squares = stand_in(&OptimizerKernels::sum_of_all_squares),
                    .factored_sums = factored_sums,
                    .factored_update = stand_in(&OptimizerKernels::factored_update),
                    .rms_update = stand_in(&OptimizerKernels::rms_update)},
      .sampling = {}};
  return table;
}

}  // namespace weft
