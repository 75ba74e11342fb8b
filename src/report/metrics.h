// What a training run tells of itself, and what is read back of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace weft {

/// One optimizer step.
struct StepMetrics {
  int64_t step = 0;  // updates made, this one included: the first is 1
  double loss = 0;   // mean over the step's tokens; may be NaN or infinite when skipped
  double learning_rate = 0;
  double grad_norm = 0;       // before clipping
  int64_t tokens = 0;         // of this step, over all ranks
  int64_t tokens_seen = 0;    // since step 0
  double seconds = 0;         // this step took
  double bound_fraction = 0;  // part of the machine's bound that the step reached; 0: unknown
  int64_t memory_bytes = 0;   // peak so far on the rank with the most
  bool skipped = false;       // nothing was updated: loss or norm were not finite
  std::vector<std::pair<std::string, double>> metrics = {};  // of tasks that measure steps

  /// 0 when the time is unknown.
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

/// Held-out data, scored after `step` updates.
struct EvaluationMetrics {
  int64_t step = 0;
  double loss = 0;
  int64_t tokens = 0;
  double perplexity = 0;
  std::vector<std::pair<std::string, double>> metrics = {};  // of the task: accuracy, f1, …
};

/// Something worth knowing: "save", "resume", "skip", "signal", "stop", …
struct RunEvent {
  int64_t step = 0;
  std::string kind;
  std::string text;
  double time = 0;  // seconds since 1970
};

/// A text that the model wrote after `step` updates.
struct RunSample {
  int64_t step = 0;
  std::string prompt;
  std::string text;
};

using MetricsLine = std::variant<std::monostate, StepMetrics, EvaluationMetrics>;

/// A line of metrics.jsonl, events.jsonl or samples.jsonl, without its end. Numbers that are not finite become null,
/// bytes that are not UTF-8 a replacement character.
std::string to_json_line(const StepMetrics& metrics);
std::string to_json_line(const EvaluationMetrics& metrics);
std::string to_json_line(const RunEvent& event);
std::string to_json_line(const RunSample& sample);

/// The reverse, for text from anywhere: unknown fields are ignored, missing numbers are 0 (a missing or null loss is
/// NaN); nothing for what isn't a JSON object with a whole, non-negative "step".
MetricsLine parse_metrics_line(std::string_view line);
std::optional<RunEvent> parse_event_line(std::string_view line);
std::optional<RunSample> parse_sample_line(std::string_view line);

}  // namespace weft
