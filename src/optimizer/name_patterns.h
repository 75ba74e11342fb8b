// Regular expressions over parameter names.
#pragma once

#include <regex>
#include <string>
#include <vector>

namespace weft {

/// ECMAScript; throws Error(bad_input) that names the option and the pattern when it is none.
std::regex compile_name_pattern(const std::string& pattern, const char* option);

/// Whether one of them is found in a name.
class NamePatterns {
 public:
  NamePatterns(const std::vector<std::string>& patterns, const char* option);
  bool match(const std::string& name) const;

 private:
  std::vector<std::regex> patterns_;
};

}  // namespace weft
