// Work on a thread of its own whose failure is a text.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

namespace weft {

class BackgroundTask {
 public:
  BackgroundTask() = default;
  ~BackgroundTask() { wait(); }
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  /// Runs `work` on a thread, or here. The previous one must have been waited for.
  void start(bool on_thread, std::function<void()> work);
  bool is_done() const { return is_done_; }
  /// What went wrong; empty: nothing.
  std::string wait();

 private:
  void run(const std::function<void()>& work);

  std::thread thread_;
  std::atomic<bool> is_done_ = true;
  std::string error_;
};

}  // namespace weft
