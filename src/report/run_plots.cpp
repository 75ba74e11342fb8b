#include "report/run_plots.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace weft {
namespace {

constexpr size_t kFewSteps = 50;  // a curve so short is shown as it is
constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

template <typename Value>
std::vector<double> column(const RunRecord& run, Value value) {
  std::vector<double> values;
  values.reserve(run.steps.size());
  for (const StepMetrics& step : run.steps) values.push_back(static_cast<double>(value(step)));
  return values;
}

std::vector<double> steps_of(const RunRecord& run) {
  return column(run, [](const StepMetrics& step) { return step.step; });
}

std::vector<double> losses_of(const RunRecord& run) {
  return column(run, [](const StepMetrics& step) { return step.loss; });
}

/// Seconds of training up to each step, as if the steps that aren't logged took as long.
std::vector<double> elapsed_seconds(const RunRecord& run) {
  std::vector<double> elapsed;
  double sum = 0;
  int64_t last_step = 0;
  for (const StepMetrics& step : run.steps) {
    double seconds = std::isfinite(step.seconds) && step.seconds > 0 ? step.seconds : 0;
    sum += seconds * static_cast<double>(step.step - last_step);
    last_step = step.step;
    elapsed.push_back(sum);
  }
  return elapsed;
}

/// Tokens never go down; a file may say so.
std::vector<double> ascending(std::vector<double> values) {
  for (size_t i = 1; i < values.size(); ++i) values[i] = std::max(values[i], values[i - 1]);
  return values;
}

/// The smoothed loss, over the faint raw one where that is asked for.
void add_loss(
    Plot& plot, const std::string& name, const RunRecord& run, std::vector<double> x, int colour, bool with_raw) {
  std::vector<double> losses = losses_of(run);
  bool is_short = losses.size() <= kFewSteps;
  double smoothing = std::clamp(1 - 30.0 / (static_cast<double>(losses.size()) + 1), 0.0, 0.98);
  std::vector<double> smoothed = is_short ? losses : smooth_curve(losses, smoothing);
  if (with_raw && !is_short) {
    plot.curves.push_back({.name = name, .x = x, .y = losses, .colour = colour, .style = CurveStyle::faint_line});
  }
  plot.curves.push_back({.name = name, .x = std::move(x), .y = std::move(smoothed), .colour = colour});
}

Curve evaluation_curve(const std::string& name, const RunRecord& run, int colour) {
  Curve curve{.name = name, .x = {}, .y = {}, .colour = colour, .style = CurveStyle::dots};
  for (const EvaluationMetrics& evaluation : run.evaluations) {
    curve.x.push_back(static_cast<double>(evaluation.step));
    curve.y.push_back(evaluation.loss);
  }
  return curve;
}

/// What the task measures on held-out data, in one plot.
void add_metrics(std::vector<Plot>& plots, const RunRecord& run) {
  Plot plot{.title = "Held-out metrics"};
  for (const EvaluationMetrics& evaluation : run.evaluations) {
    for (size_t i = 0; i < evaluation.metrics.size(); ++i) {
      const std::string& name = evaluation.metrics[i].first;
      auto found =
          std::find_if(plot.curves.begin(), plot.curves.end(), [&](const Curve& curve) { return curve.name == name; });
      if (found == plot.curves.end()) {
        Curve curve{.name = name, .x = {}, .y = {}, .colour = static_cast<int>(i), .style = CurveStyle::dots};
        found = plot.curves.insert(plot.curves.end(), std::move(curve));
      }
      found->x.push_back(static_cast<double>(evaluation.step));
      found->y.push_back(evaluation.metrics[i].second);
    }
  }
  if (!plot.curves.empty()) plots.push_back(std::move(plot));
}

std::vector<double> skipped_steps(const RunRecord& run) {
  std::vector<double> steps;
  for (const StepMetrics& step : run.steps) {
    if (step.skipped) steps.push_back(static_cast<double>(step.step));
  }
  return steps;
}

using StepValue = double (*)(const StepMetrics&);

double learning_rate(const StepMetrics& step) {
  return step.learning_rate;
}
double grad_norm(const StepMetrics& step) {
  return step.grad_norm;
}
/// What isn't known leaves a gap.
double tokens_per_second(const StepMetrics& step) {
  return step.tokens_per_second() > 0 ? step.tokens_per_second() : kNothing;
}
double memory_gigabytes(const StepMetrics& step) {
  return step.memory_bytes > 0 ? static_cast<double>(step.memory_bytes) / 1e9 : kNothing;
}

Plot plot_over_steps(Plot plot, std::span<const RunRecord> runs, StepValue value) {
  for (size_t i = 0; i < runs.size(); ++i) {
    std::string name = runs.size() > 1 ? runs[i].name : "";
    plot.curves.push_back(
        {.name = name, .x = steps_of(runs[i]), .y = column(runs[i], value), .colour = static_cast<int>(i)});
  }
  return plot;
}

void add_common_plots(std::vector<Plot>& plots, std::span<const RunRecord> runs) {
  plots.push_back(plot_over_steps({.title = "Learning rate", .from_zero = true}, runs, learning_rate));
  plots.push_back(plot_over_steps(
      {.title = "Gradient norm, before clipping", .from_zero = true, .may_be_logarithmic = true}, runs, grad_norm));
  plots.push_back(plot_over_steps({.title = "Tokens a second", .from_zero = true}, runs, tokens_per_second));
  plots.push_back(
      plot_over_steps({.title = "Peak memory so far, largest rank (GB)", .from_zero = true}, runs, memory_gigabytes));
}

template <typename PositionsOf>
Plot loss_plot(std::string title, std::string x_label, std::span<const RunRecord> runs, PositionsOf positions_of) {
  Plot plot{.title = std::move(title), .x_label = std::move(x_label)};
  for (size_t i = 0; i < runs.size(); ++i)
    add_loss(plot, runs[i].name, runs[i], positions_of(runs[i]), static_cast<int>(i), false);
  return plot;
}

}  // namespace

std::vector<Plot> plots_of_run(const RunRecord& run) {
  Plot loss{.title = "Loss", .marks = skipped_steps(run)};
  add_loss(loss, run.steps.size() > kFewSteps ? "training (smoothed)" : "training", run, steps_of(run), 0, true);
  if (!run.evaluations.empty()) loss.curves.push_back(evaluation_curve("held-out", run, 1));
  std::vector<Plot> plots{std::move(loss)};
  add_metrics(plots, run);
  add_common_plots(plots, {&run, 1});
  return plots;
}

std::vector<Plot> plots_of_comparison(std::span<const RunRecord> runs) {
  std::vector<Plot> plots{loss_plot("Loss (smoothed)", "step", runs, steps_of)};
  Plot evaluations{.title = "Held-out loss"};
  for (size_t i = 0; i < runs.size(); ++i)
    evaluations.curves.push_back(evaluation_curve(runs[i].name, runs[i], static_cast<int>(i)));
  plots.push_back(std::move(evaluations));
  plots.push_back(loss_plot("Loss (smoothed) by tokens", "tokens", runs, [](const RunRecord& run) {
    return ascending(column(run, [](const StepMetrics& step) { return step.tokens_seen; }));
  }));
  plots.push_back(loss_plot("Loss (smoothed) by training time", "seconds", runs, elapsed_seconds));
  add_common_plots(plots, runs);
  return plots;
}

}  // namespace weft
