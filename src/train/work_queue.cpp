#include "train/work_queue.h"

#include <utility>

namespace weft {

WorkQueue::WorkQueue(bool with_thread) {
  if (with_thread) thread_ = std::thread([this] { run(); });
}

WorkQueue::~WorkQueue() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    ends_ = true;
    jobs_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

void WorkQueue::add(std::function<void()> job) {
  if (!thread_.joinable()) return job();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return jobs_.empty(); });
    if (failure_ == nullptr) jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void WorkQueue::wait() {
  if (!thread_.joinable()) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return jobs_.empty() && !busy_; });
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void WorkQueue::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || !jobs_.empty(); });
    if (ends_) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      job();
    } catch (...) {
      failure = std::current_exception();
    }
    job = nullptr;
    lock.lock();
    busy_ = false;
    if (failure != nullptr) {
      failure_ = failure;
      jobs_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace weft
