// Streams and events of a GPU that is not there: each stream is a queue of work with a thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "parallel/stream_driver.h"

namespace weft {

/// What a cudaStream_t is for the fake GPU and the stand-in for NCCL.
class FakeStream {
 public:
  FakeStream() : thread_([this] { run(); }) {}
  /// Waits for what is queued.
  virtual ~FakeStream();
  FakeStream(const FakeStream&) = delete;
  FakeStream& operator=(const FakeStream&) = delete;

  /// Virtual, so that a library which the test loads needs none of its symbols.
  virtual void enqueue(std::function<void()> work);
  bool is_idle();
  void synchronize();

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool is_busy_ = false;
  bool ends_ = false;
  std::thread thread_;
};

/// Streams of this kind; `is_idle`, if given, answers in their place.
std::shared_ptr<StreamDriver> make_fake_streams(std::function<bool()> is_idle = nullptr);

}  // namespace weft
