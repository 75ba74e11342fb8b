#include "generate/stop_filter.h"

#include <algorithm>
#include <utility>

namespace weft {

StopFilter::StopFilter(std::vector<std::string> stop_strings) : stop_strings_(std::move(stop_strings)) {
  std::erase_if(stop_strings_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopFilter::push(std::string_view text) {
  if (found_) return {};
  if (stop_strings_.empty()) return std::string(text);
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stop_strings_) first = std::min(first, pending_.find(stop));
  found_ = first != std::string::npos;
  size_t certain = found_ ? first : pending_.size() - held_back();
  std::string released = pending_.substr(0, certain);
  pending_.erase(0, found_ ? pending_.size() : certain);
  return released;
}

std::string StopFilter::finish() {
  return std::exchange(pending_, {});
}

/// Length of the longest end of the pending text with which a stop string begins.
size_t StopFilter::held_back() const {
  size_t longest = 0;
  for (const std::string& stop : stop_strings_) {
    size_t length = std::min(stop.size() - 1, pending_.size());
    while (length > longest && !std::string_view(pending_).ends_with(std::string_view(stop).substr(0, length)))
      --length;
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace weft
