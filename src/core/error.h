// Errors that a user can act on: one line that says what, where, what was expected and what to do.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>

namespace weft {

/// Exit codes of every command (documented in docs/commands.md).
enum class ExitCode : int {
  ok = 0,
  failure = 1,              // a failure of ours: an assertion, an exception nobody expected
  usage = 2,                // a wrong command line
  bad_input = 3,            // a file, config, prompt or checkpoint that cannot be used
  out_of_memory = 4,        // an allocation failed; the message lists memory by tag
  communication = 5,        // a rank was lost, frozen or disagreed
  verification_failed = 6,  // `weft verify` compared and found a difference
  interrupted = 130,        // SIGINT or SIGTERM
};

/// Thrown for everything that ends a command; main prints `what()` as one line and exits with `code()`.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

[[noreturn]] void throw_error(ExitCode code, fmt::string_view format, fmt::format_args args);

/// Throws Error(code) with a formatted one-line message.
template <typename... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw_error(code, format, fmt::make_format_args(args...));
}

/// Throws Error(ExitCode::bad_input): something from outside cannot be used.
template <typename... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw_error(ExitCode::bad_input, format, fmt::make_format_args(args...));
}

/// A short printable form of text from outside for messages: control characters escaped, cut to `limit` bytes.
std::string printable(std::string_view text, size_t limit = 120);

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line, const std::string& message);

/// For our own mistakes, never for the user's. The message is optional.
#define WEFT_ASSERT(condition, ...) \
  (static_cast<bool>(condition)     \
       ? void()                     \
       : ::weft::assertion_failed(#condition, __FILE__, __LINE__, ::fmt::format("" __VA_ARGS__)))

}  // namespace weft
