// What a person who watches a training run sees on standard error.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

#include "report/metrics.h"

namespace weft {

struct TrainingProgressOptions {
  int64_t total_steps = 0;  // 0: unknown
  int64_t log_every_steps = 1;
  std::FILE* stream = stderr;
  bool is_terminal = false;         // one live line, else plain lines
  int columns = 0;                  // of the terminal, the live line is cut to fit; 0: don't
  std::function<double()> seconds;  // a clock
};

/// Options for standard error as it is.
TrainingProgressOptions standard_error_progress(int64_t total_steps, int64_t log_every_steps);

/// "step 120/1000  loss 2.104  lr 1.0e-4  norm 0.8  3 412 tok/s  61% of bound  2.1 GB"; parts that aren't known are
/// left out. `loss` is shown instead of the step's own.
std::string describe_step(const StepMetrics& metrics, int64_t total_steps, double loss);

/// "4m10s", "2h05m", "3d04h", "12s"
std::string format_duration(double seconds);

/// "3 412"
std::string group_thousands(int64_t number);

/// On a terminal one line that is redrawn at most ten times a second; elsewhere a plain line every log_every_steps
/// steps, at most one a second. The last of total_steps always shows.
class TrainingProgress {
 public:
  explicit TrainingProgress(TrainingProgressOptions options);
  ~TrainingProgress();
  TrainingProgress(const TrainingProgress&) = delete;
  TrainingProgress& operator=(const TrainingProgress&) = delete;

  /// Every step.
  void update(const StepMetrics& metrics);
  /// A line that stays.
  void note(std::string_view text);

 private:
  void smooth(const StepMetrics& metrics, double now);
  bool is_due(int64_t step, double now) const;
  std::string time_left(int64_t step) const;
  void draw_live_line();

  TrainingProgressOptions options_;
  std::string live_line_;
  double last_update_ = 0;
  double last_draw_;
  // Exponential averages, divided by their weights' sum.
  double loss_sum_ = 0;
  double loss_weight_ = 0;
  double seconds_sum_ = 0;
  double seconds_weight_ = 0;
};

}  // namespace weft
