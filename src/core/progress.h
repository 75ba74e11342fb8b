// A progress bar on standard error: one live line on a terminal, a plain line every few seconds elsewhere.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace weft {

/// Counts bytes (or any unit) towards a total. `add` may be called from several threads. Nothing is drawn when
/// `visible` is false (ranks other than 0, --quiet), nor for work that is done within half a second.
class Progress {
 public:
  Progress(std::string label, int64_t total_bytes, bool visible);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void add(int64_t bytes);

 private:
  void draw(bool final);

  std::string label_;
  int64_t total_;
  bool visible_;
  bool terminal_;
  bool drawn_ = false;
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_draw_;
};

}  // namespace weft
