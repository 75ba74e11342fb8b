// Work that goes on beside other work, in order, on one thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

namespace weft {

class WorkQueue {
 public:
  WorkQueue();
  /// Drops what has not begun.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  /// The future is there when the job is done, with its exception if it threw one. Jobs after a failed one are not run:
  /// they fail with its exception. What a job holds is let go of before its future is there.
  std::shared_future<void> add(std::function<void()> job);

 private:
  struct Job {
    std::function<void()> work;
    std::promise<void> done;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace weft
