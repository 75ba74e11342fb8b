#include "parallel/work_queue.h"

#include <utility>

namespace weft {

WorkQueue::WorkQueue() : thread_([this] { run(); }) {}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    jobs_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

std::shared_future<void> WorkQueue::add(std::function<void()> job) {
  Job added{std::move(job), {}};
  std::shared_future<void> done = added.done.get_future().share();
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(added));
  }
  changed_.notify_all();
  return done;
}

void WorkQueue::run() {
  std::exception_ptr failure;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || !jobs_.empty(); });
    if (ends_) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    try {
      if (failure == nullptr) job.work();
    } catch (...) {
      failure = std::current_exception();
    }
    job.work = nullptr;
    if (failure != nullptr) {
      job.done.set_exception(failure);
    } else {
      job.done.set_value();
    }
    lock.lock();
  }
}

}  // namespace weft
