#include "optimizer/name_patterns.h"

#include <algorithm>

#include "core/error.h"

namespace weft {

std::regex compile_name_pattern(const std::string& pattern, const char* option) {
  try {
    return std::regex(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    fail_input("{}: \"{}\" is no regular expression (ECMAScript): {}", option, printable(pattern), error.what());
  }
}

NamePatterns::NamePatterns(const std::vector<std::string>& patterns, const char* option) {
  for (const std::string& pattern : patterns) patterns_.push_back(compile_name_pattern(pattern, option));
}

bool NamePatterns::match(const std::string& name) const {
  return std::any_of(
      patterns_.begin(), patterns_.end(), [&](const std::regex& pattern) { return std::regex_search(name, pattern); });
}

}  // namespace weft
