#include "report/run_log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "report/report_page.h"
#include "report/run_record.h"
#include "report/tensorboard.h"
#include "report/text_files.h"
#include "report/training_progress.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kReportPeriod = std::chrono::seconds(30);

void make_directory(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (is_folder(directory)) return;
  fail_input("output.directory {}: can't be made ({}); give a path that may be written to",
             printable(directory, 400),
             error ? error.message() : "there is a file of that name");
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// How much of metrics.jsonl or samples.jsonl is kept at the start.
int64_t kept_bytes(const RunLogOptions& options, const std::string& file) {
  if (!options.resumed_step) return 0;
  return size_up_to_step(options.directory + "/" + file, *options.resumed_step);
}

std::string describe_evaluation(const EvaluationMetrics& evaluation) {
  std::string line = fmt::format("step {}  held-out loss {:.4g}", evaluation.step, evaluation.loss);
  for (const auto& [name, value] : evaluation.metrics) line += fmt::format("  {} {:.4f}", name, value);
  if (!evaluation.metrics.empty()) return line;
  return line +
         fmt::format("  perplexity {:.4g}  ({} tokens)", evaluation.perplexity, group_thousands(evaluation.tokens));
}

std::string one_line(std::string_view text) {
  std::string line(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return printable(line, 2000);
}

}  // namespace

class RunLog::State {
 public:
  explicit State(const RunLogOptions& options)
      : options_(options),
        warning_([this](const std::string& text) { warn(text); }),
        metrics_file_(path("metrics.jsonl"), kept_bytes(options, "metrics.jsonl"), warning_),
        samples_file_(path("samples.jsonl"), kept_bytes(options, "samples.jsonl"), warning_),
        events_file_(path("events.jsonl"), -1, warning_),
        text_file_(path("train.log"), -1, warning_),
        next_report_(Clock::now() + kReportPeriod) {
    options_.log_every_steps = std::max<int64_t>(1, options_.log_every_steps);
    if (options.writes_tensorboard) {
      int64_t first_step = options.resumed_step ? *options.resumed_step + 1 : 0;
      tensorboard_.emplace(path("tensorboard"), first_step, warning_);
    }
    if (options.writes_report) record_ = read_run_so_far(options.directory);
    if (options.shows_progress && log::enabled(log::Level::info))
      progress_.emplace(standard_error_progress(options.total_steps, options_.log_every_steps));
  }

  void add_step(const StepMetrics& metrics) {
    if (progress_) progress_->update(metrics);
    bool is_last = metrics.step == options_.total_steps;
    left_out_.reset();
    if (metrics.step % options_.log_every_steps == 0 || is_last || metrics.skipped) {
      write_step(metrics);
    } else {
      left_out_ = metrics;
    }
  }

  void keep_last_step() {
    if (left_out_) write_step(*left_out_);
    left_out_.reset();
  }

  void write_step(const StepMetrics& metrics) {
    metrics_file_.append(to_json_line(metrics) + "\n");
    write_text(describe_step(metrics, options_.total_steps, metrics.loss));
    if (tensorboard_) {
      tensorboard_->add_scalars(metrics.step,
                                {{"train/loss", metrics.loss},
                                 {"train/learning_rate", metrics.learning_rate},
                                 {"train/grad_norm", metrics.grad_norm},
                                 {"train/tokens_per_second", metrics.tokens_per_second()},
                                 {"train/bound_fraction", metrics.bound_fraction},
                                 {"train/memory_gigabytes", static_cast<double>(metrics.memory_bytes) / 1e9}});
      for (const auto& [name, value] : metrics.metrics) {
        tensorboard_->add_scalars(metrics.step, {{"train/" + name, value}});
      }
    }
    if (!options_.writes_report) return;
    record_.steps.push_back(metrics);
    if (Clock::now() >= next_report_) write_report(true);
  }

  void add_evaluation(const EvaluationMetrics& metrics) {
    metrics_file_.append(to_json_line(metrics) + "\n");
    show(describe_evaluation(metrics));
    if (tensorboard_) {
      tensorboard_->add_scalars(metrics.step,
                                {{"evaluation/loss", metrics.loss}, {"evaluation/perplexity", metrics.perplexity}});
      for (const auto& [name, value] : metrics.metrics) {
        tensorboard_->add_scalars(metrics.step, {{"evaluation/" + name, value}});
      }
    }
    if (options_.writes_report) record_.evaluations.push_back(metrics);
  }

  void add_event(int64_t step, std::string_view kind, std::string_view text) {
    RunEvent event{.step = step, .kind = std::string(kind), .text = std::string(text), .time = seconds_since_1970()};
    events_file_.append(to_json_line(event) + "\n");
    show(fmt::format("step {}  {}: {}", step, kind, one_line(text)));
    if (options_.writes_report) record_.events.push_back(std::move(event));
  }

  void add_sample(int64_t step, std::string_view prompt, std::string_view text) {
    RunSample sample{.step = step, .prompt = std::string(prompt), .text = std::string(text)};
    samples_file_.append(to_json_line(sample) + "\n");
    show(fmt::format("step {}  sample: {} → {}", step, one_line(prompt), one_line(text)));
    if (options_.writes_report) record_.samples.push_back(std::move(sample));
  }

  void finish() {
    progress_.reset();
    if (options_.writes_report) write_report(false);
  }

 private:
  std::string path(const char* name) const { return options_.directory + "/" + name; }

  void warn(const std::string& text) {
    if (progress_) {
      progress_->note("warning: " + text);
    } else {
      log::warning("{}", text);
    }
  }

  void write_text(std::string_view line) {
    auto now = fmt::localtime(static_cast<std::time_t>(seconds_since_1970()));
    text_file_.append(fmt::format("{:%Y-%m-%d %H:%M:%S}  {}\n", now, line));
  }

  void show(const std::string& line) {
    write_text(line);
    if (progress_) progress_->note(line);
  }

  /// The pause grows with the page, so that a very long run doesn't spend its time on reports.
  void write_report(bool is_running) {
    auto begin = Clock::now();
    std::string problem = write_file_atomically(path("report.html"), render_run_report(record_, is_running));
    if (!problem.empty()) warning_.report(path("report.html"), problem);
    auto end = Clock::now();
    next_report_ = end + std::max<Clock::duration>(kReportPeriod, 100 * (end - begin));
  }

  RunLogOptions options_;
  std::optional<TrainingProgress> progress_;
  WriteWarning warning_;
  LogFile metrics_file_;
  LogFile samples_file_;
  LogFile events_file_;
  LogFile text_file_;
  std::optional<TensorBoardWriter> tensorboard_;
  RunRecord record_;
  std::optional<StepMetrics> left_out_;  // the last step, if log_every_steps has left it out
  Clock::time_point next_report_;
};

RunLog::RunLog(const RunLogOptions& options) : directory_(options.directory) {
  make_directory(options.directory);
  state_ = std::make_unique<State>(options);
}

RunLog::~RunLog() {
  try {
    finish();
  } catch (const std::exception& error) {
    log::warning("report.html is not up to date: {}; `weft report {}` writes it", error.what(), directory_);
  }
}

void RunLog::add_step(const StepMetrics& metrics) {
  if (state_) state_->add_step(metrics);
}

void RunLog::keep_last_step() {
  if (state_) state_->keep_last_step();
}

void RunLog::add_evaluation(const EvaluationMetrics& metrics) {
  if (state_) state_->add_evaluation(metrics);
}

void RunLog::add_event(int64_t step, std::string_view kind, std::string_view text) {
  if (state_) state_->add_event(step, kind, text);
}

void RunLog::add_sample(int64_t step, std::string_view prompt, std::string_view text) {
  if (state_) state_->add_sample(step, prompt, text);
}

void RunLog::finish() {
  if (!state_) return;
  state_->finish();
  state_.reset();
}

}  // namespace weft
