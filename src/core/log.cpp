#include "core/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string>

namespace weft::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
    case Level::off:
      break;
  }
  return spdlog::level::off;
}

spdlog::logger& logger() {
  static spdlog::logger instance = [] {
    spdlog::logger made("weft", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made.set_pattern("weft: %v");
    made.set_level(spdlog::level::info);
    made.flush_on(spdlog::level::debug);
    return made;
  }();
  return instance;
}

}  // namespace

void configure(Level level, const char* prefix) {
  logger().set_level(to_spdlog(level));
  std::string text = prefix;
  logger().set_pattern(text.empty() ? "weft: %v" : "weft: " + text + ": %v");
}

bool enabled(Level level) {
  return logger().should_log(to_spdlog(level));
}

void write(Level level, fmt::string_view format, fmt::format_args args) {
  std::string text = fmt::vformat(format, args);
  if (level == Level::warning) text = "warning: " + text;
  if (level == Level::error) text = "error: " + text;
  logger().log(to_spdlog(level), text);
}

}  // namespace weft::log
