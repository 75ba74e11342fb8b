#include "launcher/model_summary.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace weft {

std::string format_bytes(int64_t bytes) {
  auto value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
  return fmt::format("{:.1f} kB", value / 1e3);
}

std::string format_count(int64_t count) {
  auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} billion", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.1f} million", value / 1e6);
  return std::to_string(count);
}

int64_t parse_bytes(const std::string& text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"", 1},
                                                                   {"B", 1},
                                                                   {"kB", 1e3},
                                                                   {"MB", 1e6},
                                                                   {"M", 1e6},
                                                                   {"GB", 1e9},
                                                                   {"G", 1e9},
                                                                   {"KiB", 1024.0},
                                                                   {"MiB", 1048576.0},
                                                                   {"GiB", 1073741824.0}};
  double number = 0;
  const char* end = text.data() + text.size();
  auto [parsed, error] = std::from_chars(text.data(), end, number);
  std::string_view unit(parsed, static_cast<size_t>(end - parsed));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  for (const auto& [name, factor] : kUnits) {
    double bytes = number * factor;
    bool is_size = error == std::errc() && bytes > 0 && bytes < 9e18;
    if (name == unit && is_size) return static_cast<int64_t>(bytes);
  }
  fail(ExitCode::usage, "'{}' is no size; write for example 24GB, 16GiB or 500MB", printable(text));
}

std::string model_name(const std::string& path) {
  std::filesystem::path normal = std::filesystem::path(path).lexically_normal();
  if (!normal.has_filename()) normal = normal.parent_path();
  return normal.filename().string();
}

int64_t count_parameters(const LanguageModel& model) {
  int64_t count = 0;
  for (const Parameter& parameter : model.parameters().all()) count += parameter.full_shape.num_elements();
  return count;
}

}  // namespace weft
