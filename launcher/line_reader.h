// Lines of standard input without blocking for longer than one wants.
#pragma once

#include <string>

namespace weft {

class LineReader {
 public:
  explicit LineReader(int file) : file_(file) {}

  enum class State { nothing_yet, line, end };

  /// Waits up to `timeout_ms` (−1: forever, or until a signal) for a whole line and puts it, without its end, into
  /// `line`. The last line may lack a line end. Throws Error(bad_input) for a line beyond 16 MB.
  State next(int timeout_ms, std::string& line);

 private:
  bool take_line(std::string& line);

  int file_;
  std::string buffer_;
  size_t searched_ = 0;
  bool is_at_end_ = false;
};

}  // namespace weft
