// Logging to standard error. Standard output carries only a command's answer.
#pragma once

#include <fmt/core.h>

namespace weft::log {

enum class Level { debug, info, warning, error, off };

/// Set once by main from --quiet / --verbose and the rank; `prefix` (e.g. "rank 1") stands before every line if not
/// empty.
void configure(Level level, const char* prefix = "");

bool enabled(Level level);
void write(Level level, fmt::string_view format, fmt::format_args args);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::debug)) write(Level::debug, format, fmt::make_format_args(args...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::info)) write(Level::info, format, fmt::make_format_args(args...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::warning)) write(Level::warning, format, fmt::make_format_args(args...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, format, fmt::make_format_args(args...));
}

}  // namespace weft::log
