// A run as its directory tells it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report/metrics.h"

namespace weft {

/// The file of a run's directory that holds its resolved config.
inline constexpr const char* kRunConfigFile = "config.textproto";

struct RunRecord {
  std::string name;  // the directory's last part
  std::string directory;
  std::vector<StepMetrics> steps = {};              // by step, each once
  std::vector<EvaluationMetrics> evaluations = {};  // likewise
  std::vector<RunEvent> events = {};                // as they came
  std::vector<RunSample> samples = {};
  std::string config = {};   // as Protobuf text, empty if there is none
  int64_t unused_lines = 0;  // of metrics.jsonl: broken, or of no known type
};

/// Reads metrics.jsonl and, where they are, events.jsonl, samples.jsonl and the config. Damaged lines are counted and
/// left out, of a step that stands twice the later line counts. Throws Error(bad_input) when there is no such
/// directory, no metrics.jsonl, or nothing in it.
RunRecord read_run(const std::string& directory);

/// The same for a directory that may hold nothing yet.
RunRecord read_run_so_far(const std::string& directory);

/// Where metrics.jsonl or samples.jsonl has to be cut so that it ends with `step`: behind its last line that can be
/// read and comes before the first of a later step.
int64_t size_up_to_step(const std::string& path, int64_t step);

/// What a table says of a run. Losses are empty where there are none.
struct RunSummary {
  int64_t last_step = 0;
  int64_t tokens_seen = 0;
  int64_t skipped_steps = 0;
  std::optional<double> last_loss;
  std::optional<double> best_loss;
  int64_t best_step = 0;
  std::optional<double> last_evaluation_loss;
  std::optional<double> best_evaluation_loss;
  std::vector<std::pair<std::string, double>> last_evaluation_metrics = {};
  int64_t best_evaluation_step = 0;
  double median_tokens_per_second = 0;  // 0: unknown, as below
  double median_bound_fraction = 0;
  double training_seconds = 0;  // sum over the logged steps, scaled to all of them
  int64_t memory_bytes = 0;
};

RunSummary summarise(const RunRecord& run);

/// Fields of a config as Protobuf text, "train.steps" → "100", in its order; a repeated field gives several.
std::vector<std::pair<std::string, std::string>> flatten_config(std::string_view text);

}  // namespace weft
