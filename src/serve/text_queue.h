// Texts of many clients on their way to one encoder, and what it makes of each on its way back.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "generate/sentence_encoder.h"

namespace weft {

/// What a server of texts counts since its start.
struct TextCounts {
  std::atomic<int64_t> requests{0}, refused{0};
  std::atomic<int64_t> texts{0}, tokens{0};  // answered
  std::atomic<int64_t> waiting{0};           // texts
};

class TextQueue {
 public:
  /// At most `max_requests` wait or are being answered. `poll`: the longest wait of take().
  TextQueue(int64_t max_requests, std::chrono::milliseconds poll) : max_requests_(max_requests), poll_(poll) {}

  /// Any thread. The texts' rows of numbers, one behind the other; nothing when the queue is full or closed.
  std::optional<std::future<std::vector<float>>> submit(std::vector<TokenisedText> texts);
  /// Any thread. Nothing more is taken; what is there is answered.
  void close();
  bool is_closed() const { return is_closed_; }
  /// Closes the queue and leaves what is there without an answer: its futures throw.
  void abandon();

  /// The encoder's thread. Texts that wait, the longest-waiting first, whatever their requests: as many as have
  /// `max_tokens` together, but one at least; waits a little where there is none.
  std::vector<TokenisedText> take(int64_t max_tokens);
  /// The rows of all that was taken last, each as long as the others.
  void give(std::span<const float> rows);
  /// Closed, and everything was answered.
  bool is_finished() const;

  const TextCounts& counts() const { return counts_; }

 private:
  struct Request {
    std::vector<TokenisedText> texts;
    size_t num_taken = 0, num_given = 0;
    std::vector<float> rows = {};
    std::promise<std::vector<float>> answer = {};
  };

  int64_t max_requests_;
  std::chrono::milliseconds poll_;
  TextCounts counts_;
  std::atomic<bool> is_closed_ = false;
  mutable std::mutex mutex_;
  std::condition_variable has_work_;
  int64_t num_requests_ = 0;  // not answered yet
  std::deque<std::shared_ptr<Request>> waiting_;
  std::vector<std::shared_ptr<Request>> taken_;  // of each text that was taken last
};

}  // namespace weft
