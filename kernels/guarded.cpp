#include "kernels/guarded.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "kernels/row_sampler.h"

namespace weft {
namespace {

constexpr size_t kArenaBytes = size_t{16} << 30;  // of addresses; memory comes with the first touch

/// All guarded memory of the process, closed unless somebody has opened it.
class Arena {
 public:
  static Arena& instance() {
    static Arena arena;
    return arena;
  }

  void open() {
    std::lock_guard lock(mutex_);
    if (num_open_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    std::lock_guard lock(mutex_);
    if (--num_open_ == 0) protect(PROT_NONE);
  }

  void* take(size_t size) {
    std::lock_guard lock(mutex_);
    std::vector<void*>& blocks = free_[size];
    if (!blocks.empty()) {
      void* block = blocks.back();
      blocks.pop_back();
      return block;
    }
    if (used_ + size > kArenaBytes) return nullptr;
    void* block = begin_ + used_;
    used_ += size;
    if (num_open_ > 0) protect(PROT_READ | PROT_WRITE);
    return block;
  }
  void give_back(void* block, size_t size) {
    std::lock_guard lock(mutex_);
    free_[size].push_back(block);
  }

 private:
  Arena() {
    void* memory = mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    WEFT_ASSERT(memory != MAP_FAILED);
    begin_ = static_cast<std::byte*>(memory);
  }
  void protect(int rights) {
    if (used_ > 0) WEFT_ASSERT(mprotect(begin_, (used_ + 4095) / 4096 * 4096, rights) == 0);
  }

  std::mutex mutex_;
  std::byte* begin_ = nullptr;
  size_t used_ = 0;
  int num_open_ = 0;
  std::map<size_t, std::vector<void*>> free_;
};

struct Opening {
  Opening() { Arena::instance().open(); }
  ~Opening() { Arena::instance().close(); }
  Opening(const Opening&) = delete;
  Opening& operator=(const Opening&) = delete;
};

class GuardedAllocator final : public Allocator {
 public:
  void* allocate(size_t bytes, MemoryTag tag) override {
    void* block = Arena::instance().take(block_size(bytes));
    if (block == nullptr) fail(ExitCode::out_of_memory, "out of guarded memory; in use: {}", tracker_.report());
    tracker_.add(tag, static_cast<int64_t>(bytes));
    return block;
  }
  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override {
    tracker_.add(tag, -static_cast<int64_t>(bytes));
    Arena::instance().give_back(pointer, block_size(bytes));
  }
  MemoryTracker& memory() override { return tracker_; }

  Device device() const override { return {.type = DeviceType::guarded}; }
  bool is_asynchronous() const override { return true; }
  /// As late as can be, to find who does not wait.
  std::function<void()> start_copy_to_host(void* to, const void* from, size_t bytes) override {
    return [this, to, from, bytes] { copy_to_host(to, from, bytes); };
  }
  void copy_from_host(void* to, const void* from, size_t bytes) override {
    Opening opening;
    Allocator::copy_from_host(to, from, bytes);
  }
  void copy_to_host(void* to, const void* from, size_t bytes) override {
    Opening opening;
    Allocator::copy_to_host(to, from, bytes);
  }
  void copy_within(void* to, const void* from, size_t bytes) override {
    Opening opening;
    Allocator::copy_within(to, from, bytes);
  }
  void fill_zero(void* to, size_t bytes) override {
    Opening opening;
    Allocator::fill_zero(to, bytes);
  }

 private:
  static size_t block_size(size_t bytes) { return std::bit_ceil(std::max<size_t>(bytes, 64)); }

  MemoryTracker tracker_;
};

template <auto Group, auto Slot, typename Result, typename... Args>
Result call_with_open_memory(Args... args) {
  Opening opening;
  return (kernels(DeviceType::cpu).*Group.*Slot)(args...);
}

template <auto Group, auto Slot, typename Kernels, typename Result, typename... Args>
constexpr auto wrap(Result (*Kernels::*)(Args...)) {
  return &call_with_open_memory<Group, Slot, Result, Args...>;
}

/// The CPU's kernel of a slot, with the memory open while it runs.
template <auto Group, auto Slot>
constexpr auto guarded() {
  return wrap<Group, Slot>(Slot);
}

/// As on a GPU other weights stay row-major.
size_t quantized_bytes(int64_t out_features, int64_t in_features, DType dtype, Layout layout) {
  if (!is_quantized(layout)) return 0;
  return kernels(DeviceType::cpu).linear.packed_bytes(out_features, in_features, dtype, layout);
}

/// As on a GPU found where the logits lie.
template <typename T>
void find_largest(const ArgmaxArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const T* x = static_cast<const T*>(args.x) + row * args.width;
    int32_t best = -1;
    for (int64_t i = 0; i < args.width; ++i) {
      auto value = static_cast<double>(static_cast<float>(x[i]));
      if (!std::isnan(value) && (best < 0 || value > static_cast<double>(static_cast<float>(x[best])))) {
        best = static_cast<int32_t>(i);
      }
    }
    args.ids[row] = best >= 0 && std::isfinite(static_cast<float>(x[best])) ? best : -1;
  }
}

void argmax(const ArgmaxArgs& args, const Stream& /*stream*/) {
  Opening opening;
  args.dtype == DType::bf16 ? find_largest<bfloat16>(args) : find_largest<float>(args);
}

void sample(const SampleArgs& args, const Stream& /*stream*/) {
  Opening opening;
  sample_on_host(args);
}

}  // namespace

std::shared_ptr<Allocator> make_guarded_allocator() {
  return std::make_shared<GuardedAllocator>();
}

const KernelTable& guarded_kernels() {
  using Table = KernelTable;
  static const KernelTable table = {
      .linear = {.forward = guarded<&Table::linear, &LinearKernels::forward>(),
                 .backward_input = guarded<&Table::linear, &LinearKernels::backward_input>(),
                 .backward_weight = guarded<&Table::linear, &LinearKernels::backward_weight>(),
                 .packed_bytes = quantized_bytes,
                 .pack = guarded<&Table::linear, &LinearKernels::pack>(),
                 .unpack_rows = guarded<&Table::linear, &LinearKernels::unpack_rows>(),
                 .machine_peaks = guarded<&Table::linear, &LinearKernels::machine_peaks>()},
      .rms_norm = {.forward = guarded<&Table::rms_norm, &RmsNormKernels::forward>(),
                   .backward = guarded<&Table::rms_norm, &RmsNormKernels::backward>()},
      .layer_norm = {.forward = guarded<&Table::layer_norm, &LayerNormKernels::forward>(),
                     .backward = guarded<&Table::layer_norm, &LayerNormKernels::backward>()},
      .rope = {.table = guarded<&Table::rope, &RopeKernels::table>(),
               .rotate = guarded<&Table::rope, &RopeKernels::rotate>()},
      .attention = {.forward = guarded<&Table::attention, &AttentionKernels::forward>(),
                    .backward = guarded<&Table::attention, &AttentionKernels::backward>(),
                    .cache_write = guarded<&Table::attention, &AttentionKernels::cache_write>(),
                    .bias_expand = guarded<&Table::attention, &AttentionKernels::bias_expand>(),
                    .bias_reduce = guarded<&Table::attention, &AttentionKernels::bias_reduce>()},
      .relative_attention = {.forward = guarded<&Table::relative_attention, &RelativeAttentionKernels::forward>(),
                             .backward = guarded<&Table::relative_attention, &RelativeAttentionKernels::backward>()},
      .wkv = {.forward = guarded<&Table::wkv, &WkvKernels::forward>(),
              .recurrent = guarded<&Table::wkv, &WkvKernels::recurrent>(),
              .backward = guarded<&Table::wkv, &WkvKernels::backward>()},
      .token_shift = {.forward = guarded<&Table::token_shift, &TokenShiftKernels::forward>(),
                      .backward = guarded<&Table::token_shift, &TokenShiftKernels::backward>()},
      .activation = {.forward = guarded<&Table::activation, &ActivationKernels::forward>(),
                     .backward = guarded<&Table::activation, &ActivationKernels::backward>(),
                     .gated_forward = guarded<&Table::activation, &ActivationKernels::gated_forward>(),
                     .gated_backward = guarded<&Table::activation, &ActivationKernels::gated_backward>()},
      .embedding = {.forward = guarded<&Table::embedding, &EmbeddingKernels::forward>(),
                    .backward = guarded<&Table::embedding, &EmbeddingKernels::backward>(),
                    .gather_rows = guarded<&Table::embedding, &EmbeddingKernels::gather_rows>()},
      .elementwise = {.axpby = guarded<&Table::elementwise, &ElementwiseKernels::axpby>(),
                      .soft_cap = guarded<&Table::elementwise, &ElementwiseKernels::soft_cap>(),
                      .soft_cap_backward = guarded<&Table::elementwise, &ElementwiseKernels::soft_cap_backward>(),
                      .softmax = guarded<&Table::elementwise, &ElementwiseKernels::softmax>(),
                      .softmax_backward = guarded<&Table::elementwise, &ElementwiseKernels::softmax_backward>(),
                      .dropout = guarded<&Table::elementwise, &ElementwiseKernels::dropout>(),
                      .transpose = guarded<&Table::elementwise, &ElementwiseKernels::transpose>(),
                      .column_scale = guarded<&Table::elementwise, &ElementwiseKernels::column_scale>(),
                      .column_scale_backward =
                          guarded<&Table::elementwise, &ElementwiseKernels::column_scale_backward>(),
                      .argmax = argmax},
      .cross_entropy = {.row_statistics = guarded<&Table::cross_entropy, &CrossEntropyKernels::row_statistics>(),
                        .backward = guarded<&Table::cross_entropy, &CrossEntropyKernels::backward>()},
      .optimizer = {.adam = guarded<&Table::optimizer, &OptimizerKernels::adam>(),
                    .adam_norms = guarded<&Table::optimizer, &OptimizerKernels::adam_norms>(),
                    .lion = guarded<&Table::optimizer, &OptimizerKernels::lion>(),
                    .apply_update = guarded<&Table::optimizer, &OptimizerKernels::apply_update>(),
                    .average = guarded<&Table::optimizer, &OptimizerKernels::average>(),
                    .load_master = guarded<&Table::optimizer, &OptimizerKernels::load_master>(),
                    .store_master = guarded<&Table::optimizer, &OptimizerKernels::store_master>(),
                    .sum_of_squares = guarded<&Table::optimizer, &OptimizerKernels::sum_of_squares>(),
                    .sum_of_all_squares = guarded<&Table::optimizer, &OptimizerKernels::sum_of_all_squares>(),
                    .factored_sums = guarded<&Table::optimizer, &OptimizerKernels::factored_sums>(),
                    .factored_update = guarded<&Table::optimizer, &OptimizerKernels::factored_update>(),
                    .rms_update = guarded<&Table::optimizer, &OptimizerKernels::rms_update>()},
      .sampling = {.sample = sample}};
  return table;
}

}  // namespace weft
