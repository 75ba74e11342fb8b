// What a rank is doing, for the message about a rank that no longer does it.
#pragma once

#include <atomic>
#include <cstdint>

namespace weft {

/// Written by the computing thread, read by the watchdog's; lock-free and cheap enough for every collective.
class Activity {
 public:
  /// `op` is a string literal: only the pointer is kept.
  void set_op(const char* op) { op_.store(op, std::memory_order_relaxed); }
  void set_step(int64_t step) { step_.store(step, std::memory_order_relaxed); }
  /// Of the last whole checkpoint; −1: none.
  void set_saved_step(int64_t step) { saved_step_.store(step, std::memory_order_relaxed); }
  const char* op() const { return op_.load(std::memory_order_relaxed); }
  int64_t step() const { return step_.load(std::memory_order_relaxed); }
  int64_t saved_step() const { return saved_step_.load(std::memory_order_relaxed); }

 private:
  std::atomic<const char*> op_{"start-up"};
  std::atomic<int64_t> step_{0};
  std::atomic<int64_t> saved_step_{-1};
};

}  // namespace weft
