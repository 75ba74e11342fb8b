#include "launcher/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "core/error.h"

namespace weft {

LineReader::State LineReader::next(int timeout_ms, std::string& line) {
  constexpr size_t kMaxLine = size_t{16} << 20;
  while (!take_line(line)) {
    if (is_at_end_) {
      if (buffer_.empty()) return State::end;
      line = std::exchange(buffer_, {});
      return State::line;
    }
    pollfd waiting{file_, POLLIN, 0};
    if (poll(&waiting, 1, timeout_ms) <= 0) return State::nothing_yet;
    std::array<char, 1 << 14> block;
    ssize_t count = read(file_, block.data(), block.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return State::nothing_yet;
    is_at_end_ = count <= 0;
    if (count > 0) buffer_.append(block.data(), static_cast<size_t>(count));
    if (buffer_.size() > kMaxLine) fail_input("standard input: a line of more than {} bytes", kMaxLine);
  }
  return State::line;
}

bool LineReader::take_line(std::string& line) {
  size_t end = buffer_.find('\n', searched_);
  if (end == std::string::npos) {
    searched_ = buffer_.size();
    return false;
  }
  line = buffer_.substr(0, end > 0 && buffer_[end - 1] == '\r' ? end - 1 : end);
  buffer_.erase(0, end + 1);
  searched_ = 0;
  return true;
}

}  // namespace weft
