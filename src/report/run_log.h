// What a training run writes down about itself: metrics, events, samples, and a live line for who watches.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "report/metrics.h"

namespace weft {

struct RunLogOptions {
  std::string directory;                     // of the run; made if it isn't there
  int64_t total_steps = 0;                   // 0: unknown
  std::optional<int64_t> resumed_step = {};  // the checkpoint's that this run goes on from; nothing: from the beginning
  int64_t log_every_steps = 1;               // steps between lines of metrics.jsonl, train.log and TensorBoard
  bool writes_tensorboard = true;
  bool writes_report = true;
  bool shows_progress = true;  // on standard error, unless the log level is below info
};

/// The log of a run, for rank 0's main thread. In the run's directory (docs/runs.md):
///   metrics.jsonl    a line for each logged step and each evaluation; after a resume the lines beyond the resumed step
///                    are cut off, so that the file is that of an undisturbed run but for the times
///   samples.jsonl    likewise
///   events.jsonl     never cut: saves, resumes, skipped steps, signals
///   train.log        the same for people, never cut
///   tensorboard/     an event file for each start
///   report.html      refreshed at most every 30 s and at the end
/// Only the constructor throws: Error(bad_input) for a directory that can't be made or isn't one. Later a full disk or
/// a vanished directory costs one warning; what could not be written is kept in memory (up to 4 MB a file) and written
/// when there is room again.
class RunLog {
 public:
  explicit RunLog(const RunLogOptions& options);
  /// As finish().
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  /// To be called for every step; log_every_steps is applied inside (skipped steps and the last are always written).
  void add_step(const StepMetrics& metrics);
  /// For a run that ends before total_steps: writes the step added last where log_every_steps has left it out.
  void keep_last_step();
  void add_evaluation(const EvaluationMetrics& metrics);
  /// Also shown to who watches.
  void add_event(int64_t step, std::string_view kind, std::string_view text);
  void add_sample(int64_t step, std::string_view prompt, std::string_view text);
  /// Writes the last report and ends the live line. Further calls do nothing.
  void finish();

 private:
  class State;
  std::string directory_;
  std::unique_ptr<State> state_;
};

}  // namespace weft
