// A device for memory plans: memory that is counted but not there, and kernels that compute nothing but take the
// scratch that the CPU's take. What runs on it allocates as it would on the CPU, in a fraction of the time; what the
// host reads of it are zeros.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

#include "core/memory.h"
#include "kernels/kernels.h"

namespace weft {

/// By memory tag.
using BytesByTag = std::array<int64_t, kNumMemoryTags>;

/// Beside those of DeviceType: nobody computes there.
inline constexpr DeviceType kPlannedDevice{0x70};

/// Small blocks are memory; all larger ones lie in the same place, and copies pass over them.
class PlannedAllocator final : public Allocator, public std::enable_shared_from_this<PlannedAllocator> {
 public:
  ~PlannedAllocator() override;

  void* allocate(size_t bytes, MemoryTag tag) override;
  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override;
  MemoryTracker& memory() override { return tracker_; }
  Device device() const override { return {.type = kPlannedDevice}; }
  void copy_from_host(void* to, const void* from, size_t bytes) override;
  void copy_to_host(void* to, const void* from, size_t bytes) override;
  void copy_within(void* to, const void* from, size_t bytes) override;
  void fill_zero(void* to, size_t bytes) override;
  /// Memory of any size that counts here: on the CPU both are one.
  std::shared_ptr<Allocator> make_host_allocator() override;

  /// Counts a block from elsewhere, or its end.
  void count(MemoryTag tag, int64_t bytes);

  /// Names what happens from now on: "load", "forward", …
  void begin(std::string_view moment);

  /// Each kind's own highest, at whatever moment.
  BytesByTag peaks() const;
  /// What the highest sum consisted of, and when it was. Of several equal ones the first.
  BytesByTag at_peak() const { return at_peak_; }
  std::string_view peak_moment() const { return peak_moment_; }

 private:
  void* shared_place(size_t bytes);

  MemoryTracker tracker_;
  std::mutex mutex_;
  std::map<size_t, void*> places_;  // by size; the last one is in use
  BytesByTag current_{}, at_peak_{};
  int64_t total_ = 0, peak_total_ = 0;
  std::string_view moment_, peak_moment_;
};

const KernelTable& planned_kernels();

}  // namespace weft
