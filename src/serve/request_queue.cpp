#include "serve/request_queue.h"

#include <algorithm>

namespace weft {

AnswerStream::Part AnswerStream::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  has_more_.wait_for(lock, limit, [&] { return !part_.tokens.empty() || part_.result.has_value(); });
  return std::exchange(part_, {});
}

std::vector<std::shared_ptr<AnswerStream>> RequestQueue::submit(std::vector<GenerationRequest> requests) {
  std::vector<std::shared_ptr<AnswerStream>> streams;
  std::lock_guard lock(mutex_);
  auto count = std::ssize(requests);
  if (is_closed_ || std::ssize(waiting_) + std::ssize(running_) + count > max_answers_) {
    ++counts_.refused;
    return streams;
  }
  ++counts_.requests;
  counts_.waiting += count;
  for (GenerationRequest& request : requests) {
    streams.push_back(std::make_shared<AnswerStream>());
    waiting_.push_back({std::move(request), streams.back()});
  }
  has_work_.notify_one();
  return streams;
}

void RequestQueue::cancel(const AnswerStream* stream) {
  std::lock_guard lock(mutex_);
  for (const auto& [index, running] : running_) {
    if (running.get() == stream) cancelled_.push_back(index);
  }
  auto place = std::ranges::find(waiting_, stream, [](const Waiting& waiting) { return waiting.stream.get(); });
  if (place == waiting_.end()) return;
  --counts_.waiting;
  ++counts_.cancelled;
  waiting_.erase(place);
}

void RequestQueue::close() {
  std::lock_guard lock(mutex_);
  is_closed_ = true;
  has_work_.notify_one();
}

RequestFeed::Update RequestQueue::next(int64_t places, bool is_idle) {
  std::unique_lock lock(mutex_);
  if (is_idle) has_work_.wait_for(lock, poll_, [&] { return !waiting_.empty() || is_closed_; });
  Update update;
  update.cancelled = std::exchange(cancelled_, {});
  for (; places > 0 && !waiting_.empty(); --places) {
    update.requests.push_back(std::move(waiting_.front().request));
    running_.emplace(num_given_++, std::move(waiting_.front().stream));
    waiting_.pop_front();
    --counts_.waiting;
    ++counts_.running;
  }
  update.is_closed = is_closed_ && waiting_.empty();
  return update;
}

GenerationHooks RequestQueue::hooks() {
  auto stream_of = [this](size_t index) {
    std::lock_guard lock(mutex_);
    return running_.at(index);
  };
  GenerationHooks hooks;
  hooks.on_token = [this, stream_of](const DrawnToken& token) {
    ++counts_.new_tokens;
    std::shared_ptr<AnswerStream> stream = stream_of(token.request);
    std::lock_guard lock(stream->mutex_);
    std::vector<AnswerStream::Token>& tokens = stream->part_.tokens;
    tokens.push_back({.id = token.id, .text = std::string(token.text), .logprobs = std::nullopt});
    if (token.logprobs != nullptr) tokens.back().logprobs = *token.logprobs;
    stream->has_more_.notify_one();
  };
  hooks.on_finish = [this, stream_of](size_t index, const GenerationResult& result) {
    --counts_.running;
    ++(result.finish_reason == FinishReason::interrupted ? counts_.cancelled : counts_.finished);
    counts_.prompt_tokens += result.prompt_tokens;
    std::shared_ptr<AnswerStream> stream = stream_of(index);
    {
      // Its place is free before its client can ask for another.
      std::lock_guard lock(mutex_);
      running_.erase(index);
    }
    finish(*stream, result);
  };
  return hooks;
}

void RequestQueue::finish(AnswerStream& stream, const GenerationResult& result) {
  std::lock_guard lock(stream.mutex_);
  stream.part_.result = result;
  stream.has_more_.notify_one();
}

}  // namespace weft
