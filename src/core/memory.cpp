#include "core/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/block_size.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr std::array<std::string_view, kNumMemoryTags> kTagNames = {
    "weights", "grads", "optimizer", "activations", "kv_cache", "workspace", "comm"};

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMaxCachedBytes = size_t{512} << 20;

size_t round_up(size_t value, size_t unit) {
  return (value + unit - 1) / unit * unit;
}

bool is_short_lived(MemoryTag tag) {
  return tag == MemoryTag::activations || tag == MemoryTag::workspace || tag == MemoryTag::comm ||
         tag == MemoryTag::grads;
}

class CpuAllocator final : public Allocator {
 public:
  ~CpuAllocator() override { release_cached(); }

  void* allocate(size_t bytes, MemoryTag tag) override {
    size_t size = block_size(bytes);
    void* pointer = is_short_lived(tag) ? take_cached(size) : nullptr;
    if (pointer == nullptr) pointer = fresh(size);
    if (pointer == nullptr) {
      release_cached();
      pointer = fresh(size);
    }
    if (pointer == nullptr) {
      fail(ExitCode::out_of_memory,
           "out of memory: {:.1f} MB for {} could not be allocated; in use: {}; use a smaller batch, a shorter context "
           "or more ranks",
           static_cast<double>(bytes) / 1e6,
           memory_tag_name(tag),
           tracker_.report());
    }
    tracker_.add(tag, static_cast<int64_t>(bytes));
    return pointer;
  }

  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override {
    tracker_.add(tag, -static_cast<int64_t>(bytes));
    size_t size = block_size(bytes);
    if (is_short_lived(tag)) {
      std::lock_guard lock(mutex_);
      if (cached_bytes_ + size <= kMaxCachedBytes) {
        cache_[size].push_back(pointer);
        cached_bytes_ += size;
        return;
      }
    }
    std::free(pointer);
  }

  MemoryTracker& memory() override { return tracker_; }

 private:
  static size_t block_size(size_t bytes) { return cached_block_size(bytes, kAlignment); }

  static void* fresh(size_t size) {
    bool huge = size >= 2 * kHugePage;
    void* pointer = std::aligned_alloc(huge ? kHugePage : kAlignment, huge ? round_up(size, kHugePage) : size);
    if (pointer != nullptr && huge) madvise(pointer, size, MADV_HUGEPAGE);
    return pointer;
  }

  void* take_cached(size_t size) {
    std::lock_guard lock(mutex_);
    auto found = cache_.find(size);
    if (found == cache_.end() || found->second.empty()) return nullptr;
    void* pointer = found->second.back();
    found->second.pop_back();
    cached_bytes_ -= size;
    return pointer;
  }

  void release_cached() {
    std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : cache_) {
      for (void* block : blocks) std::free(block);
    }
    cache_.clear();
    cached_bytes_ = 0;
  }

  MemoryTracker tracker_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cache_;
  size_t cached_bytes_ = 0;
};

}  // namespace

void Allocator::run_step(uint64_t /*key*/, const std::function<void()>& step, const LateValues& late) {
  if (late.host != nullptr) copy_to_host(late.host, late.device, static_cast<size_t>(late.count) * sizeof(int32_t));
  step();
}

std::function<void()> Allocator::start_copy_to_host(void* to, const void* from, size_t bytes) {
  copy_to_host(to, from, bytes);
  return [] {};
}

std::shared_ptr<Allocator> Allocator::make_host_allocator() {
  return make_cpu_allocator();
}

void Allocator::copy_from_host(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void Allocator::copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void Allocator::copy_within(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}

void Allocator::copy_rows(
    void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t num_rows) {
  for (size_t row = 0; row < num_rows; ++row) {
    copy_within(static_cast<std::byte*>(to) + row * to_stride,
                static_cast<const std::byte*>(from) + row * from_stride,
                row_bytes);
  }
}

void Allocator::fill_zero(void* to, size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
}

std::string_view memory_tag_name(MemoryTag tag) {
  return kTagNames[static_cast<size_t>(tag)];
}

void MemoryTracker::Counter::add(int64_t bytes) {
  int64_t now = current.fetch_add(bytes) + bytes;
  int64_t seen = peak.load();
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {
  }
}

void MemoryTracker::add(MemoryTag tag, int64_t bytes) {
  by_tag_[static_cast<size_t>(tag)].add(bytes);
  total_.add(bytes);
}

int64_t MemoryTracker::current(MemoryTag tag) const {
  return by_tag_[static_cast<size_t>(tag)].current.load();
}
int64_t MemoryTracker::peak(MemoryTag tag) const {
  return by_tag_[static_cast<size_t>(tag)].peak.load();
}
int64_t MemoryTracker::current_total() const {
  return total_.current.load();
}
int64_t MemoryTracker::peak_total() const {
  return total_.peak.load();
}

std::string MemoryTracker::report() const {
  std::string text;
  for (size_t i = 0; i < kNumMemoryTags; ++i) {
    MemoryTag tag = static_cast<MemoryTag>(i);
    if (peak(tag) == 0) continue;
    if (!text.empty()) text += ", ";
    text += fmt::format("{} {:.1f} MB (peak {:.1f} MB)",
                        memory_tag_name(tag),
                        static_cast<double>(current(tag)) / 1e6,
                        static_cast<double>(peak(tag)) / 1e6);
  }
  return text.empty() ? "nothing" : text;
}

std::shared_ptr<Allocator> make_cpu_allocator() {
  return std::make_shared<CpuAllocator>();
}

}  // namespace weft
