#include "training_checkpoint/background_task.h"

#include <exception>
#include <utility>

#include "core/error.h"

namespace weft {

void BackgroundTask::start(bool on_thread, std::function<void()> work) {
  WEFT_ASSERT(!thread_.joinable());
  error_.clear();
  is_done_ = false;
  if (on_thread) {
    thread_ = std::thread([this, work = std::move(work)] { run(work); });
  } else {
    run(work);
  }
}

void BackgroundTask::run(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    error_ = error.what();
  }
  is_done_ = true;
}

std::string BackgroundTask::wait() {
  if (thread_.joinable()) thread_.join();
  return error_;
}

}  // namespace weft
