// Stop strings in streamed text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace weft {

/// Passes text on as it comes, up to the first stop string; holds back an end that may still become one.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stop_strings);

  /// The text that is certain now. After a stop string was found, nothing more comes.
  std::string push(std::string_view text);
  /// What was held back, at the end of the answer.
  std::string finish();
  bool found() const { return found_; }

 private:
  size_t held_back() const;

  std::vector<std::string> stop_strings_;
  std::string pending_;
  bool found_ = false;
};

}  // namespace weft
