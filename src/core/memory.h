// Allocation with accounting by kind: what the memory of a rank is spent on.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/device.h"

namespace weft {

enum class MemoryTag : uint8_t { weights, grads, optimizer, activations, kv_cache, workspace, comm };
inline constexpr size_t kNumMemoryTags = 7;

std::string_view memory_tag_name(MemoryTag tag);

/// Bytes in use and their high-water mark, by tag and in all. Thread-safe.
class MemoryTracker {
 public:
  void add(MemoryTag tag, int64_t bytes);
  int64_t current(MemoryTag tag) const;
  int64_t peak(MemoryTag tag) const;
  int64_t current_total() const;
  int64_t peak_total() const;

  /// One line a tag: "weights 268.9 MB (peak 268.9 MB), activations …", tags never used left out.
  std::string report() const;

 private:
  struct Counter {
    std::atomic<int64_t> current{0};
    std::atomic<int64_t> peak{0};
    void add(int64_t bytes);
  };
  std::array<Counter, kNumMemoryTags> by_tag_;
  Counter total_;
};

/// Numbers that a step reads from host memory, but that an earlier step has left on the device: `host` gets them, or
/// what reads it gets them from `device`.
struct LateValues {
  int32_t* host = nullptr;  // in one piece, as kernels are given it; null: there are none
  const int32_t* device = nullptr;
  int64_t count = 0;
};

/// Hands out device memory. Blocks are at least 64-byte aligned and not initialised.
class Allocator {
 public:
  virtual ~Allocator() = default;
  /// Throws Error(out_of_memory) with the tracker's report when there is no more.
  virtual void* allocate(size_t bytes, MemoryTag tag) = 0;
  virtual void deallocate(void* pointer, size_t bytes, MemoryTag tag) = 0;
  virtual MemoryTracker& memory() = 0;

  /// Where the memory lies. What follows moves bytes to, from and in it, in the order of the kernels that use it; the
  /// copies to and from the host have happened when they return.
  virtual Device device() const { return {}; }
  virtual void copy_from_host(void* to, const void* from, size_t bytes);
  virtual void copy_to_host(void* to, const void* from, size_t bytes);
  virtual void copy_within(void* to, const void* from, size_t bytes);
  /// Rows of `row_bytes`, which lie `to_stride` and `from_stride` bytes apart.
  virtual void copy_rows(
      void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t num_rows);
  virtual void fill_zero(void* to, size_t bytes);
  /// Host memory from and to which copies are fast.
  virtual std::shared_ptr<Allocator> make_host_allocator();
  /// Runs `step`, a piece of work that is queued again and again in the same way, such as the pass of a model for one
  /// more token; `key` tells kinds of it apart. Where that is cheaper, later runs start by one call what an earlier one
  /// queued. The step must not read what it computes, and may be called more than once. Late values are for lookups of
  /// rows alone; their address must depend on nothing but the key.
  virtual void run_step(uint64_t key, const std::function<void()>& step, const LateValues& late = {});
  /// Whether kernels are queued while the host goes on, so that it is worth queueing work before results are read.
  virtual bool is_asynchronous() const { return false; }
  /// Queues a copy to memory of the host allocator. It is there once the function that is returned has been called.
  virtual std::function<void()> start_copy_to_host(void* to, const void* from, size_t bytes);
  /// Waits for all kernels and copies; an error of one of them is thrown here.
  virtual void synchronize() {}
};

/// Host memory. Freed blocks of activations and workspace are kept for reuse by size, since fresh pages cost more than
/// most kernels.
std::shared_ptr<Allocator> make_cpu_allocator();

}  // namespace weft
