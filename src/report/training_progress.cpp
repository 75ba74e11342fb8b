#include "report/training_progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace weft {
namespace {

constexpr double kTerminalPeriod = 0.1;
constexpr double kPlainPeriod = 1;
constexpr double kSmoothing = 0.9;

int terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/// "1.0e-4": the library's exponents have two digits at least.
std::string format_learning_rate(double learning_rate) {
  std::string text = fmt::format("{:.1e}", learning_rate);
  size_t exponent = text.find('e');
  if (exponent + 3 < text.size() && text[exponent + 2] == '0') text.erase(exponent + 2, 1);
  return text;
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

TrainingProgressOptions standard_error_progress(int64_t total_steps, int64_t log_every_steps) {
  bool is_terminal = isatty(STDERR_FILENO) == 1;
  return {.total_steps = total_steps,
          .log_every_steps = log_every_steps,
          .stream = stderr,
          .is_terminal = is_terminal,
          .columns = is_terminal ? terminal_columns() : 0,
          .seconds = steady_seconds};
}

std::string group_thousands(int64_t number) {
  std::string digits = std::to_string(number);
  for (auto place = static_cast<int64_t>(digits.size()) - 3; place > (number < 0 ? 1 : 0); place -= 3)
    digits.insert(static_cast<size_t>(place), " ");
  return digits;
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  int64_t whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  return fmt::format("{}d{:02}h", whole / 86400, whole / 3600 % 24);
}

std::string describe_step(const StepMetrics& metrics, int64_t total_steps, double loss) {
  std::string line = fmt::format("step {}", metrics.step);
  if (total_steps > 0) line += fmt::format("/{}", total_steps);
  line += fmt::format(
      "  loss {:#.4g}  lr {}  norm {:#.2g}", loss, format_learning_rate(metrics.learning_rate), metrics.grad_norm);
  for (const auto& [name, value] : metrics.metrics) line += fmt::format("  {} {:.4g}", name, value);
  if (metrics.tokens_per_second() > 0 && metrics.tokens_per_second() < 1e15)
    line += fmt::format("  {} tok/s", group_thousands(std::llround(metrics.tokens_per_second())));
  if (metrics.bound_fraction > 0) line += fmt::format("  {:.0f}% of bound", metrics.bound_fraction * 100);
  if (metrics.memory_bytes > 0) line += fmt::format("  {:.1f} GB", static_cast<double>(metrics.memory_bytes) / 1e9);
  if (metrics.skipped) line += "  skipped";
  return line;
}

TrainingProgress::TrainingProgress(TrainingProgressOptions options)
    : options_(std::move(options)), last_update_(options_.seconds()), last_draw_(-1e9) {
  options_.log_every_steps = std::max<int64_t>(1, options_.log_every_steps);
}

TrainingProgress::~TrainingProgress() {
  if (live_line_.empty()) return;
  draw_live_line();
  fmt::print(options_.stream, "\n");
  std::fflush(options_.stream);
}

void TrainingProgress::smooth(const StepMetrics& metrics, double now) {
  if (std::isfinite(metrics.loss)) {
    loss_sum_ = kSmoothing * loss_sum_ + (1 - kSmoothing) * metrics.loss;
    loss_weight_ = kSmoothing * loss_weight_ + (1 - kSmoothing);
  }
  seconds_sum_ = kSmoothing * seconds_sum_ + (1 - kSmoothing) * (now - last_update_);
  seconds_weight_ = kSmoothing * seconds_weight_ + (1 - kSmoothing);
  last_update_ = now;
}

bool TrainingProgress::is_due(int64_t step, double now) const {
  if (step == options_.total_steps) return true;
  double period = options_.is_terminal ? kTerminalPeriod : kPlainPeriod;
  bool is_logged = options_.is_terminal || step % options_.log_every_steps == 0;
  return is_logged && now - last_draw_ >= period;
}

std::string TrainingProgress::time_left(int64_t step) const {
  if (options_.total_steps <= step) return {};
  double seconds_a_step = seconds_sum_ / seconds_weight_;
  return fmt::format("  {} left", format_duration(seconds_a_step * static_cast<double>(options_.total_steps - step)));
}

void TrainingProgress::update(const StepMetrics& metrics) {
  double now = options_.seconds();
  smooth(metrics, now);
  double loss = loss_weight_ > 0 ? loss_sum_ / loss_weight_ : metrics.loss;
  std::string line = describe_step(metrics, options_.total_steps, loss) + time_left(metrics.step);
  if (options_.is_terminal) live_line_ = line;
  if (!is_due(metrics.step, now)) return;
  last_draw_ = now;
  if (options_.is_terminal) {
    draw_live_line();
  } else {
    fmt::print(options_.stream, "weft: {}\n", line);
  }
  std::fflush(options_.stream);
}

void TrainingProgress::note(std::string_view text) {
  fmt::print(
      options_.stream, "{}weft: {}{}\n", options_.is_terminal ? "\r" : "", text, options_.is_terminal ? "\x1b[K" : "");
  if (!live_line_.empty()) draw_live_line();
  std::fflush(options_.stream);
}

void TrainingProgress::draw_live_line() {
  std::string_view line = live_line_;
  if (options_.columns > 1) line = line.substr(0, static_cast<size_t>(options_.columns - 1));
  fmt::print(options_.stream, "\r{}\x1b[K", line);
}

}  // namespace weft
