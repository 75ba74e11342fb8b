#include "verify/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

/// Gradients that are 0 in exact arithmetic hold rounding noise; this floor keeps their relative difference meaningful.
constexpr double kReferenceFloor = 1e-3;

std::string tolerance_text(const Tolerance& tolerance) {
  switch (tolerance.measure) {
    case Measure::absolute:
      return fmt::format("{:.1e} abs", tolerance.value);
    case Measure::of_maximum:
      return fmt::format("{:.1e} rel", tolerance.value);
    case Measure::relative_rms:
      return fmt::format("{:.1e} rms", tolerance.value);
    case Measure::ids:
      return "equal ids";
  }
  return "";
}

const char* measure_name(Measure measure) {
  switch (measure) {
    case Measure::absolute:
      return "max_abs";
    case Measure::of_maximum:
      return "max_rel";
    case Measure::relative_rms:
      return "relative_rms";
    case Measure::ids:
      return "differing_ids";
  }
  return "";
}

std::string comparison_line(const Comparison& row, size_t name_width) {
  std::string numbers = row.tolerance.measure == Measure::ids
                            ? fmt::format("{:>35}", fmt::format("{} of {} ids differ", row.differing_ids, row.count))
                            : fmt::format("{:>11.3e} {:>11.3e} {:>11.3e}", row.max_abs, row.max_rel, row.relative_rms);
  return fmt::format("{:<{}} {} {:>12}  {}{}{}\n",
                     row.name,
                     name_width,
                     numbers,
                     tolerance_text(row.tolerance),
                     row.passed() ? "ok" : "FAIL",
                     row.note.empty() ? "" : "  ",
                     row.note);
}

}  // namespace

void Difference::add(std::span<const float> values, std::span<const float> reference) {
  WEFT_ASSERT(values.size() == reference.size());
  count_ += static_cast<int64_t>(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    double expected = reference[i];
    double difference = std::abs(static_cast<double>(values[i]) - expected);
    has_nan_ = has_nan_ || std::isnan(difference);
    max_abs_ = std::max(max_abs_, difference);
    max_reference_ = std::max(max_reference_, std::abs(expected));
    sum_squared_difference_ += difference * difference;
    sum_squared_reference_ += expected * expected;
  }
}

double Difference::guard(double value) const {
  return has_nan_ ? std::numeric_limits<double>::quiet_NaN() : value;
}

double Difference::max_abs() const {
  return guard(max_abs_);
}

double Difference::max_rel() const {
  return guard(max_abs_ / std::max(max_reference_, kReferenceFloor));
}

double Difference::relative_rms() const {
  double floor = kReferenceFloor * kReferenceFloor * static_cast<double>(std::max<int64_t>(count_, 1));
  return guard(std::sqrt(sum_squared_difference_ / std::max(sum_squared_reference_, floor)));
}

double Comparison::measured() const {
  switch (tolerance.measure) {
    case Measure::absolute:
      return max_abs;
    case Measure::of_maximum:
      return max_rel;
    case Measure::relative_rms:
      return relative_rms;
    case Measure::ids:
      return differing_ids;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

bool Comparison::passed() const {
  return count > 0 && measured() <= tolerance.value;
}

bool VerifyReport::passed() const {
  return !compared.empty() &&
         std::all_of(compared.begin(), compared.end(), [](const Comparison& row) { return row.passed(); });
}

std::string VerifyReport::summary() const {
  if (compared.empty()) return "nothing to compare";
  std::vector<std::pair<std::string, int>> counts;
  int64_t failed = 0;
  for (const Comparison& row : compared) {
    failed += row.passed() ? 0 : 1;
    auto found =
        std::find_if(counts.begin(), counts.end(), [&](const auto& entry) { return entry.first == row.category; });
    if (found == counts.end()) {
      counts.emplace_back(row.category, 1);
    } else {
      ++found->second;
    }
  }
  std::string text = "compared";
  const char* separator = " ";
  for (const auto& [category, count] : counts) {
    text += fmt::format("{}{} {}", separator, count, category);
    separator = ", ";
  }
  return text + (failed == 0 ? ": all within tolerance" : fmt::format(": {} of {} FAILED", failed, compared.size()));
}

std::string to_text(const VerifyReport& report) {
  size_t width = 6;
  for (const Comparison& row : report.compared) width = std::max(width, row.name.size());
  std::string text = fmt::format(
      "{:<{}} {:>11} {:>11} {:>11} {:>12}\n", "tensor", width, "max abs", "max rel", "rms rel", "tolerance");
  for (const Comparison& row : report.compared) text += comparison_line(row, width);
  for (const NotCompared& entry : report.not_compared)
    text += fmt::format("not compared: {}: {}\n", entry.name, entry.reason);
  return text + report.summary() + "\n";
}

std::string to_json(const VerifyReport& report) {
  auto number = [](double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr); };
  nlohmann::json rows = nlohmann::json::array();
  for (const Comparison& row : report.compared) {
    rows.push_back({{"name", row.name},
                    {"category", row.category},
                    {"max_abs", number(row.max_abs)},
                    {"max_rel", number(row.max_rel)},
                    {"relative_rms", number(row.relative_rms)},
                    {"differing_ids", number(row.differing_ids)},
                    {"count", row.count},
                    {"measure", measure_name(row.tolerance.measure)},
                    {"tolerance", row.tolerance.value},
                    {"passed", row.passed()},
                    {"note", row.note}});
  }
  nlohmann::json skipped = nlohmann::json::array();
  for (const NotCompared& entry : report.not_compared)
    skipped.push_back({{"name", entry.name}, {"reason", entry.reason}});
  return nlohmann::json{
      {"passed", report.passed()}, {"summary", report.summary()}, {"compared", rows}, {"not_compared", skipped}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace weft
