#include "launcher/line_feed.h"

#include <unistd.h>

#include <utility>

namespace weft {

LineFeed::LineFeed(std::function<void(const std::string& line, std::vector<GenerationRequest>& requests)> add,
                   int wait_ms)
    : add_(std::move(add)), wait_ms_(wait_ms), reader_(STDIN_FILENO) {}

RequestFeed::Update LineFeed::next(int64_t places, bool is_idle) {
  Update update;
  while (std::ssize(update.requests) < places) {
    std::string line;
    bool may_wait = is_idle && update.requests.empty();
    LineReader::State state = reader_.next(may_wait ? wait_ms_ : 0, line);
    update.is_closed = state == LineReader::State::end;
    if (state != LineReader::State::line) break;
    if (!line.empty()) add_(line, update.requests);
  }
  return update;
}

}  // namespace weft
