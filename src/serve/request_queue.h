// Requests of many clients on their way to one generator, and its tokens on their way back.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "generate/generator.h"

namespace weft {

/// One answer as it grows, filled by the generator's thread and read by a client's.
class AnswerStream {
 public:
  struct Token {
    int32_t id = 0;
    std::string text;
    std::optional<TokenLogprobs> logprobs;
  };
  struct Part {
    std::vector<Token> tokens;
    std::optional<GenerationResult> result;  // with the last part
  };

  /// What has come since the last call, waiting up to `limit` for it.
  Part wait(std::chrono::milliseconds limit);

 private:
  friend class RequestQueue;
  std::mutex mutex_;
  std::condition_variable has_more_;
  Part part_;
};

/// What a server counts since its start.
struct ServingCounts {
  std::atomic<int64_t> requests{0}, refused{0}, finished{0}, cancelled{0};
  std::atomic<int64_t> waiting{0}, running{0};
  std::atomic<int64_t> prompt_tokens{0}, new_tokens{0};
};

class RequestQueue final : public RequestFeed {
 public:
  /// At most `max_answers` wait or grow. `poll`: the longest wait of next().
  RequestQueue(int64_t max_answers, std::chrono::milliseconds poll) : max_answers_(max_answers), poll_(poll) {}

  /// Any thread. A stream a request, in their order; none when the queue is full or closed.
  std::vector<std::shared_ptr<AnswerStream>> submit(std::vector<GenerationRequest> requests);
  /// Any thread. The answer ends as it is.
  void cancel(const AnswerStream* stream);
  /// Any thread. Nothing more is taken; what is there is answered.
  void close();
  bool is_closed() const { return is_closed_; }

  /// The generator's thread.
  Update next(int64_t places, bool is_idle) override;
  /// What tells the streams.
  GenerationHooks hooks();

  const ServingCounts& counts() const { return counts_; }

 private:
  struct Waiting {
    GenerationRequest request;
    std::shared_ptr<AnswerStream> stream;
  };

  void finish(AnswerStream& stream, const GenerationResult& result);

  int64_t max_answers_;
  std::chrono::milliseconds poll_;
  ServingCounts counts_;
  std::atomic<bool> is_closed_ = false;
  std::mutex mutex_;
  std::condition_variable has_work_;
  std::deque<Waiting> waiting_;
  std::map<size_t, std::shared_ptr<AnswerStream>> running_;  // by the generator's number
  std::vector<size_t> cancelled_;
  size_t num_given_ = 0;
};

}  // namespace weft
