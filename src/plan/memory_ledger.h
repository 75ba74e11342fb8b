// Memory that a plan pretends to allocate: the same accounts as a run's (core/memory.h), and what was going on when
// the sum was highest.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "core/memory.h"

namespace weft {

/// Bytes by MemoryTag.
using BytesByTag = std::array<int64_t, kNumMemoryTags>;

class MemoryLedger {
 public:
  /// What is counted from here on is part of `moment` (a literal).
  void begin(std::string_view moment) { moment_ = moment; }
  void add(MemoryTag tag, int64_t bytes);

  /// Each tag's own high-water mark; they need not be reached together.
  const BytesByTag& peaks() const { return peaks_; }
  int64_t peak_total() const { return peak_total_; }
  /// Where peak_total was reached, and what was in use then.
  std::string_view peak_moment() const { return peak_moment_; }
  const BytesByTag& at_peak() const { return at_peak_; }

 private:
  BytesByTag current_{}, peaks_{}, at_peak_{};
  int64_t total_ = 0, peak_total_ = 0;
  std::string_view moment_ = "start", peak_moment_ = "start";
};

/// Stands for a tensor's memory: bytes that count as long as a copy of it lives. The ledger must outlive it.
class PlannedMemory {
 public:
  PlannedMemory() = default;
  PlannedMemory(MemoryLedger& ledger, MemoryTag tag, int64_t bytes);
  explicit operator bool() const { return held_ != nullptr; }
  int64_t bytes() const;

 private:
  class Held;
  std::shared_ptr<const Held> held_;
};

}  // namespace weft
