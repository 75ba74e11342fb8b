#include "report/run_record.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/paths.h"
#include "report/text_files.h"

namespace weft {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxFieldBytes = 4096;  // bounds the paths, which are repeated for every field below
constexpr size_t kMaxEvents = 100'000;

std::string last_part(const std::string& directory) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(directory, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

/// By step; of several with the same step the last.
template <typename Metrics>
void order_by_step(std::vector<Metrics>& all) {
  auto is_earlier = [](const Metrics& a, const Metrics& b) { return a.step < b.step; };
  if (!std::is_sorted(all.begin(), all.end(), is_earlier)) std::stable_sort(all.begin(), all.end(), is_earlier);
  size_t kept = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i + 1 < all.size() && all[i + 1].step == all[i].step) continue;
    all[kept++] = all[i];
  }
  all.resize(kept);
}

/// Returns false if there is no file.
bool read_metrics(const std::string& path, RunRecord& run) {
  LineCounts counts = for_each_line(path, [&](std::string_view line, int64_t) {
    MetricsLine parsed = parse_metrics_line(line);
    if (auto* step = std::get_if<StepMetrics>(&parsed)) {
      run.steps.push_back(*step);
    } else if (auto* evaluation = std::get_if<EvaluationMetrics>(&parsed)) {
      run.evaluations.push_back(*evaluation);
    } else if (!line.empty()) {
      ++run.unused_lines;
    }
  });
  run.unused_lines += counts.too_long;
  order_by_step(run.steps);
  order_by_step(run.evaluations);
  return counts.opened;
}

template <typename Entry>
std::vector<Entry> read_entries(const std::string& path, std::optional<Entry> (*parse)(std::string_view)) {
  std::vector<Entry> entries;
  for_each_line(path, [&](std::string_view line, int64_t) {
    if (entries.size() >= kMaxEvents) return;
    if (auto entry = parse(line)) entries.push_back(std::move(*entry));
  });
  return entries;
}

std::string read_config(const std::string& path) {
  if (!is_plain_file(path)) return {};
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxConfigBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

bool read_files(RunRecord& run) {
  bool has_metrics = read_metrics(run.directory + "/metrics.jsonl", run);
  run.events = read_entries<RunEvent>(run.directory + "/events.jsonl", parse_event_line);
  run.samples = read_entries<RunSample>(run.directory + "/samples.jsonl", parse_sample_line);
  run.config = read_config(run.directory + "/" + kRunConfigFile);
  return has_metrics;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// NaN compares false, so that it is never the best.
bool is_better(double loss, const std::optional<double>& best) {
  return std::isfinite(loss) && (!best || loss < *best);
}

void summarise_evaluations(const RunRecord& run, RunSummary& summary) {
  if (!run.evaluations.empty()) summary.last_evaluation_metrics = run.evaluations.back().metrics;
  for (const EvaluationMetrics& evaluation : run.evaluations) {
    if (std::isfinite(evaluation.loss)) summary.last_evaluation_loss = evaluation.loss;
    if (!is_better(evaluation.loss, summary.best_evaluation_loss)) continue;
    summary.best_evaluation_loss = evaluation.loss;
    summary.best_evaluation_step = evaluation.step;
  }
}

void summarise_speed(const RunRecord& run, RunSummary& summary) {
  std::vector<double> rates;
  std::vector<double> fractions;
  double seconds = 0;
  for (const StepMetrics& step : run.steps) {
    if (std::isfinite(step.seconds) && step.seconds > 0) seconds += step.seconds;
    if (step.tokens_per_second() > 0) rates.push_back(step.tokens_per_second());
    if (step.bound_fraction > 0) fractions.push_back(step.bound_fraction);
    summary.memory_bytes = std::max(summary.memory_bytes, step.memory_bytes);
  }
  summary.median_tokens_per_second = median(std::move(rates));
  summary.median_bound_fraction = median(std::move(fractions));
  if (!run.steps.empty())
    summary.training_seconds = seconds * static_cast<double>(summary.last_step) / static_cast<double>(run.steps.size());
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

}  // namespace

RunRecord read_run_so_far(const std::string& directory) {
  RunRecord run{.name = last_part(directory), .directory = directory};
  read_files(run);
  return run;
}

RunRecord read_run(const std::string& directory) {
  std::string shown = printable(directory, 400);
  if (!is_folder(directory))
    fail_input("{} is no run's directory: no such directory; give output.directory of a `weft train` run", shown);
  RunRecord run{.name = last_part(directory), .directory = directory};
  if (!read_files(run))
    fail_input("{} is no run's directory: it has no metrics.jsonl; give output.directory of a `weft train` run", shown);
  if (run.steps.empty() && run.evaluations.empty()) {
    fail_input("{}/metrics.jsonl holds no step yet{}; is the run just starting?",
               shown,
               run.unused_lines > 0 ? fmt::format(" ({} lines that can't be read)", run.unused_lines) : "");
  }
  return run;
}

int64_t size_up_to_step(const std::string& path, int64_t step) {
  int64_t size = 0;
  bool is_beyond = false;
  for_each_line(path, [&](std::string_view line, int64_t end) {
    if (is_beyond) return;
    std::optional<RunSample> entry = parse_sample_line(line);
    if (!entry) return;
    if (entry->step > step) {
      is_beyond = true;
    } else {
      size = end;
    }
  });
  return size;
}

RunSummary summarise(const RunRecord& run) {
  RunSummary summary;
  for (const StepMetrics& step : run.steps) {
    summary.last_step = std::max(summary.last_step, step.step);
    summary.tokens_seen = std::max(summary.tokens_seen, step.tokens_seen);
    if (step.skipped) ++summary.skipped_steps;
    if (std::isfinite(step.loss)) summary.last_loss = step.loss;
    if (!is_better(step.loss, summary.best_loss)) continue;
    summary.best_loss = step.loss;
    summary.best_step = step.step;
  }
  summarise_evaluations(run, summary);
  summarise_speed(run, summary);
  return summary;
}

std::vector<std::pair<std::string, std::string>> flatten_config(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> fields;
  std::vector<size_t> outer_lengths;
  std::string path;
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string_view line = trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.size() > kMaxFieldBytes) continue;
    if (line == "}" && !outer_lengths.empty()) {
      path.resize(outer_lengths.back());
      outer_lengths.pop_back();
    } else if (line.ends_with("{") && outer_lengths.size() < 16) {
      outer_lengths.push_back(path.size());
      std::string_view name = trim(line.substr(0, line.size() - 1));
      if (name.ends_with(':')) name.remove_suffix(1);
      path += std::string(name) + ".";
    } else if (size_t colon = line.find(':'); colon != std::string_view::npos && !line.starts_with('#')) {
      fields.emplace_back(path + std::string(line.substr(0, colon)), trim(line.substr(colon + 1)));
    }
  }
  return fields;
}

}  // namespace weft
