#include "core/error.h"

#include <fmt/format.h>

namespace weft {

void throw_error(ExitCode code, fmt::string_view format, fmt::format_args args) {
  throw Error(code, fmt::vformat(format, args));
}

std::string printable(std::string_view text, size_t limit) {
  std::string out;
  for (unsigned char c : text.substr(0, limit)) {
    if (c < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += static_cast<char>(c);
    }
  }
  if (text.size() > limit) out += "…";
  return out;
}

void assertion_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw Error(ExitCode::failure,
              fmt::format("internal error: {} does not hold at {}:{}{}{}",
                          condition,
                          file,
                          line,
                          message.empty() ? "" : ": ",
                          message));
}

}  // namespace weft
