#include "serve/text_queue.h"

#include "core/error.h"

namespace weft {

std::optional<std::future<std::vector<float>>> TextQueue::submit(std::vector<TokenisedText> texts) {
  WEFT_ASSERT(!texts.empty());
  std::lock_guard lock(mutex_);
  if (is_closed_ || num_requests_ >= max_requests_) {
    ++counts_.refused;
    return std::nullopt;
  }
  ++counts_.requests;
  ++num_requests_;
  counts_.waiting += std::ssize(texts);
  auto request = std::make_shared<Request>();
  request->texts = std::move(texts);
  waiting_.push_back(request);
  has_work_.notify_one();
  return request->answer.get_future();
}

void TextQueue::close() {
  std::lock_guard lock(mutex_);
  is_closed_ = true;
  has_work_.notify_one();
}

void TextQueue::abandon() {
  std::lock_guard lock(mutex_);
  is_closed_ = true;
  waiting_.clear();
  taken_.clear();
}

std::vector<TokenisedText> TextQueue::take(int64_t max_tokens) {
  std::unique_lock lock(mutex_);
  has_work_.wait_for(lock, poll_, [&] { return !waiting_.empty() || is_closed_; });
  std::vector<TokenisedText> texts;
  int64_t num_tokens = 0;
  while (!waiting_.empty()) {
    Request& first = *waiting_.front();
    TokenisedText& text = first.texts[first.num_taken];
    num_tokens += std::ssize(text.ids);
    if (!texts.empty() && num_tokens > max_tokens) break;
    counts_.tokens += std::ssize(text.ids);
    texts.push_back(std::move(text));
    taken_.push_back(waiting_.front());
    if (++first.num_taken == first.texts.size()) waiting_.pop_front();
  }
  counts_.waiting -= std::ssize(texts);
  return texts;
}

void TextQueue::give(std::span<const float> rows) {
  std::lock_guard lock(mutex_);
  WEFT_ASSERT(!taken_.empty() && rows.size() % taken_.size() == 0);
  size_t width = rows.size() / taken_.size();
  counts_.texts += std::ssize(taken_);
  for (const std::shared_ptr<Request>& request : taken_) {
    request->rows.insert(request->rows.end(), rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(width));
    rows = rows.subspan(width);
    if (++request->num_given < request->texts.size()) continue;
    --num_requests_;
    request->answer.set_value(std::move(request->rows));
  }
  taken_.clear();
}

bool TextQueue::is_finished() const {
  std::lock_guard lock(mutex_);
  return is_closed_ && num_requests_ == 0;
}

}  // namespace weft
