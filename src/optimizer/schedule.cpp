#include "optimizer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weft {
namespace {

/// Straight lines between the points, from (0, 0) unless the first is at 0, constant after the last (bert4keras'
/// piecewise_linear).
double piecewise_linear_factor(const std::vector<std::pair<int64_t, double>>& points, int64_t step) {
  std::pair<int64_t, double> before{0, 0.0};
  for (const std::pair<int64_t, double>& after : points) {
    if (step < after.first) {
      double part = static_cast<double>(step - before.first) / static_cast<double>(after.first - before.first);
      return before.second + part * (after.second - before.second);
    }
    before = after;
  }
  return before.second;
}

/// Of cosine, linear and polynomial after the warm-up: 1 at its end, minimum_factor at the end of training.
double decay_factor(const ScheduleOptions& schedule, int64_t step) {
  int64_t length = std::max<int64_t>(1, schedule.total_steps - schedule.warmup_steps);
  double progress =
      std::clamp(static_cast<double>(step - schedule.warmup_steps) / static_cast<double>(length), 0.0, 1.0);
  double shape = 1;
  if (schedule.kind == ScheduleKind::cosine) shape = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  if (schedule.kind == ScheduleKind::linear) shape = 1 - progress;
  if (schedule.kind == ScheduleKind::polynomial) shape = std::pow(1 - progress, schedule.power);
  return schedule.minimum_factor + (1 - schedule.minimum_factor) * shape;
}

}  // namespace

double learning_rate_at(const ScheduleOptions& schedule, int64_t step) {
  double warmup = 1;
  if (step < schedule.warmup_steps) warmup = static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  switch (schedule.kind) {
    case ScheduleKind::constant:
      return schedule.learning_rate * warmup;
    case ScheduleKind::piecewise_linear:
      return schedule.learning_rate * warmup * piecewise_linear_factor(schedule.points, step);
    default:
      if (step < schedule.warmup_steps) return schedule.learning_rate * warmup;
      return schedule.learning_rate * decay_factor(schedule, step);
  }
}

}  // namespace weft
