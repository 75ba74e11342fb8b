// The prompts of weft generate --follow: lines of standard input, answered as they come.
#pragma once

#include <functional>
#include <string>

#include "generate/generator.h"
#include "launcher/line_reader.h"

namespace weft {

class LineFeed final : public RequestFeed {
 public:
  /// `add` appends the requests of a line that is not empty. `wait_ms`: at most that long a wait for a line (−1: until
  /// a signal).
  LineFeed(std::function<void(const std::string& line, std::vector<GenerationRequest>& requests)> add, int wait_ms);

  Update next(int64_t places, bool is_idle) override;

 private:
  std::function<void(const std::string& line, std::vector<GenerationRequest>& requests)> add_;
  int wait_ms_;
  LineReader reader_;
};

}  // namespace weft
