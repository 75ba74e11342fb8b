#include "parallel/fake_streams.h"

#include <future>
#include <utility>

namespace weft {
namespace {

struct Event {
  std::promise<void> happens;
  std::shared_future<void> has_happened = happens.get_future().share();
};

class FakeStreams final : public StreamDriver {
 public:
  explicit FakeStreams(std::function<bool()> is_idle) : is_idle_(std::move(is_idle)) {}

  void use_device(int /*index*/) override {}
  bool is_idle(void* stream) override { return is_idle_ ? is_idle_() : static_cast<FakeStream*>(stream)->is_idle(); }
  std::shared_ptr<void> make_stream() override { return std::make_shared<FakeStream>(); }
  std::shared_ptr<void> record(void* stream) override {
    auto event = std::make_shared<Event>();
    static_cast<FakeStream*>(stream)->enqueue([event] { event->happens.set_value(); });
    return event;
  }
  void wait(void* stream, void* event) override {
    static_cast<FakeStream*>(stream)->enqueue([done = static_cast<Event*>(event)->has_happened] { done.wait(); });
  }

 private:
  std::function<bool()> is_idle_;
};

}  // namespace

FakeStream::~FakeStream() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void FakeStream::enqueue(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  changed_.notify_all();
}

bool FakeStream::is_idle() {
  const std::lock_guard lock(mutex_);
  return queue_.empty() && !is_busy_;
}

void FakeStream::synchronize() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.empty() && !is_busy_; });
}

void FakeStream::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto work = std::move(queue_.front());
    queue_.pop_front();
    is_busy_ = true;
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
    is_busy_ = false;
    changed_.notify_all();
  }
}

std::shared_ptr<StreamDriver> make_fake_streams(std::function<bool()> is_idle) {
  return std::make_shared<FakeStreams>(std::move(is_idle));
}

}  // namespace weft
