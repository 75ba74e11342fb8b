// Regular expressions of tokenizer files (Oniguruma's dialect in the reference), run by PCRE2 within bounds.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace weft {

struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
};

/// Compiled with UTF and Unicode properties, just-in-time where the processor allows. Immutable; may be used by several
/// threads.
class Regex {
 public:
  /// Throws Error(bad_input) naming `where` and the place in the pattern that does not compile.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  /// The first match that starts at or after `from`. `text` is valid UTF-8. Throws Error(bad_input) when the pattern
  /// backtracks beyond its limit.
  std::optional<TextSpan> find(std::string_view text, size_t from) const;

 private:
  struct Program;
  struct Match;
  std::unique_ptr<Program> program_;
};

}  // namespace weft
