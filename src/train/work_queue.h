// Work that goes on beside backward, in order, on one thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace weft {

class WorkQueue {
 public:
  /// Without a thread each job runs where it is added.
  explicit WorkQueue(bool with_thread);
  /// Drops what has not begun.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  /// Waits while a job besides the running one has not begun: what jobs hold stays bounded.
  void add(std::function<void()> job);
  /// Returns when all jobs are done; rethrows the first exception of one. Jobs after a failed one are dropped.
  void wait();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::exception_ptr failure_;
  bool busy_ = false;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace weft
