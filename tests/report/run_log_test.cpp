// RunLog: what lies in a run's directory, also after kills, resumes and on a disk that fails.
#include "report/run_log.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "report/run_record.h"
#include "report/temporary_directory.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::HasSubstr;

StepMetrics step_metrics(int64_t step) {
  return {.step = step,
          .loss = 3.0 / static_cast<double>(step),
          .learning_rate = 1e-4,
          .grad_norm = 0.5,
          .tokens = 512,
          .tokens_seen = 512 * step,
          .seconds = 0.25,
          .bound_fraction = 0.5,
          .memory_bytes = 2'000'000'000};
}

RunLogOptions options_for(const TemporaryDirectory& directory) {
  return {.directory = directory.path(), .total_steps = 20, .shows_progress = false};
}

void add_steps(RunLog& log, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) {
    log.add_step(step_metrics(step));
    if (step % 5 == 0) log.add_evaluation({.step = step, .loss = 2.5, .tokens = 100, .perplexity = std::exp(2.5)});
    if (step % 10 == 0) log.add_sample(step, "In the beginning", " was a loss");
  }
}

TEST(RunLog, what_a_task_measures_of_a_step_is_read_back) {
  StepMetrics metrics = step_metrics(3);
  metrics.metrics = {{"accuracy", 0.75}, {"margin", -0.5}};
  std::string line = to_json_line(metrics);
  EXPECT_EQ(json::parse(line)["metrics"]["margin"], -0.5);
  MetricsLine parsed = parse_metrics_line(line);
  ASSERT_TRUE(std::holds_alternative<StepMetrics>(parsed));
  EXPECT_EQ(std::get<StepMetrics>(parsed).metrics, metrics.metrics);
  EXPECT_FALSE(json::parse(to_json_line(step_metrics(3))).contains("metrics"));
}

TEST(RunLog, every_metrics_line_is_a_json_object) {
  TemporaryDirectory directory;
  {
    RunLog log(options_for(directory));
    add_steps(log, 1, 10);
  }
  std::vector<std::string> lines = directory.read_lines("metrics.jsonl");
  ASSERT_EQ(lines.size(), 12u);
  json first = json::parse(lines[0]);
  EXPECT_EQ(first["type"], "step");
  EXPECT_EQ(first["step"], 1);
  EXPECT_EQ(first["loss"], 3.0);
  EXPECT_EQ(first["tokens_per_second"], 2048.0);
  json evaluation = json::parse(lines[5]);
  EXPECT_EQ(evaluation["type"], "evaluation");
  EXPECT_EQ(evaluation["perplexity"], std::exp(2.5));
  EXPECT_EQ(directory.read_lines("train.log").size(), 13u);
  EXPECT_EQ(json::parse(directory.read_lines("samples.jsonl").at(0))["text"], " was a loss");
}

TEST(RunLog, a_line_is_in_the_file_when_the_call_returns) {
  TemporaryDirectory directory;
  RunLog log(options_for(directory));
  log.add_step(step_metrics(1));
  EXPECT_EQ(directory.read_lines("metrics.jsonl").size(), 1u);
}

TEST(RunLog, values_that_are_not_finite_become_null) {
  TemporaryDirectory directory;
  {
    RunLog log(options_for(directory));
    StepMetrics metrics = step_metrics(1);
    metrics.loss = std::nan("");
    metrics.grad_norm = INFINITY;
    metrics.skipped = true;
    log.add_step(metrics);
  }
  json line = json::parse(directory.read_lines("metrics.jsonl").at(0));
  EXPECT_TRUE(line["loss"].is_null());
  EXPECT_TRUE(line["grad_norm"].is_null());
  RunRecord run = read_run(directory.path());
  EXPECT_TRUE(std::isnan(run.steps.at(0).loss));
  EXPECT_TRUE(run.steps.at(0).skipped);
}

TEST(RunLog, a_resumed_run_writes_the_same_file_as_an_undisturbed_one) {
  TemporaryDirectory undisturbed;
  {
    RunLog log(options_for(undisturbed));
    add_steps(log, 1, 20);
  }
  TemporaryDirectory resumed;
  {
    RunLog log(options_for(resumed));
    add_steps(log, 1, 14);  // killed after step 14, the checkpoint is that of step 10
  }
  resumed.write("metrics.jsonl", resumed.read("metrics.jsonl") + R"({"type":"step","step":15,"lo)");
  RunLogOptions options = options_for(resumed);
  options.resumed_step = 10;
  {
    RunLog log(options);
    log.add_event(10, "resume", "from step-00000010");
    add_steps(log, 11, 20);
  }
  EXPECT_EQ(resumed.read("metrics.jsonl"), undisturbed.read("metrics.jsonl"));
  EXPECT_EQ(resumed.read("samples.jsonl"), undisturbed.read("samples.jsonl"));
}

TEST(RunLog, what_a_kill_tore_off_is_cut_and_a_line_without_its_end_is_kept) {
  TemporaryDirectory directory;
  directory.write("metrics.jsonl",
                  R"({"type":"step","step":1,"loss":2})"
                  "\n"
                  R"({"type":"step","step":2,"loss":1})");
  RunLogOptions options = options_for(directory);
  options.resumed_step = 2;
  { RunLog(options).add_step(step_metrics(3)); }
  std::vector<std::string> lines = directory.read_lines("metrics.jsonl");
  ASSERT_EQ(lines.size(), 3u);
  for (const std::string& line : lines) EXPECT_TRUE(json::accept(line)) << line;
  EXPECT_EQ(json::parse(lines[2])["step"], 3);
}

TEST(RunLog, events_and_the_text_log_survive_a_resume) {
  TemporaryDirectory directory;
  { RunLog(options_for(directory)).add_event(7, "save", "step-00000007"); }
  RunLogOptions options = options_for(directory);
  options.resumed_step = 5;
  { RunLog(options).add_event(5, "resume", "two\nlines"); }
  RunRecord run = read_run_so_far(directory.path());
  ASSERT_EQ(run.events.size(), 2u);
  EXPECT_EQ(run.events[0].text, "step-00000007");
  EXPECT_EQ(run.events[1].text, "two\nlines");
  EXPECT_THAT(directory.read_lines("train.log"),
              testing::ElementsAre(HasSubstr("step 7  save: step-00000007"), HasSubstr("resume: two lines")));
}

TEST(RunLog, log_every_steps_thins_out_all_but_skipped_steps_and_the_last) {
  TemporaryDirectory directory;
  RunLogOptions options = options_for(directory);
  options.log_every_steps = 6;
  {
    RunLog log(options);
    for (int64_t step = 1; step <= 20; ++step) {
      StepMetrics metrics = step_metrics(step);
      metrics.skipped = step == 9;
      log.add_step(metrics);
    }
  }
  std::vector<int64_t> steps;
  for (const StepMetrics& step : read_run(directory.path()).steps) steps.push_back(step.step);
  EXPECT_THAT(steps, testing::ElementsAre(6, 9, 12, 18, 20));
}

TEST(RunLog, a_directory_that_cannot_be_made_is_one_clear_error) {
  TemporaryDirectory directory;
  directory.write("taken", "");
  RunLogOptions options = options_for(directory);
  options.directory = directory.path("taken");
  try {
    RunLog log(options);
    FAIL() << "took a file for a directory";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    EXPECT_THAT(error.what(), HasSubstr("output.directory"));
  }
}

/// Files can't grow beyond `bytes`: as on a full disk, writes fall short and then fail.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : previous_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &previous_);
    rlimit limit{.rlim_cur = bytes, .rlim_max = previous_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &previous_);
    std::signal(SIGXFSZ, previous_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit previous_{};
  void (*previous_handler_)(int);
};

size_t count(const std::string& text, const std::string& part) {
  size_t times = 0;
  for (size_t place = 0; (place = text.find(part, place)) != std::string::npos; place += part.size()) ++times;
  return times;
}

TEST(RunLog, a_full_disk_costs_one_warning_and_no_line) {
  TemporaryDirectory directory;
  RunLog log(options_for(directory));
  add_steps(log, 1, 2);
  // Standard error goes into memory meanwhile: into a file it would meet the limit too.
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  int saved = dup(STDERR_FILENO);
  dup2(pipe_ends[1], STDERR_FILENO);
  {
    FileSizeLimit limit(directory.read("metrics.jsonl").size() + 20);
    add_steps(log, 3, 9);
  }
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(pipe_ends[1]);
  std::string warnings(1 << 16, '\0');
  warnings.resize(static_cast<size_t>(std::max<ssize_t>(0, read(pipe_ends[0], warnings.data(), warnings.size()))));
  close(pipe_ends[0]);
  EXPECT_EQ(count(warnings, "can't be written"), 1u) << warnings;
  std::string while_full = directory.read("metrics.jsonl");
  EXPECT_EQ(while_full.back(), '\n') << "half a line was left";
  add_steps(log, 10, 10);
  log.finish();
  RunRecord run = read_run(directory.path());
  EXPECT_EQ(run.unused_lines, 0);
  EXPECT_EQ(run.steps.size(), 10u) << "lines of the full disk's time are written later";
}

TEST(RunLog, a_vanished_directory_does_not_stop_the_run) {
  TemporaryDirectory directory;
  RunLogOptions options = options_for(directory);
  options.directory = directory.path("run");
  RunLog log(options);
  add_steps(log, 1, 2);
  std::filesystem::remove_all(options.directory);
  testing::internal::CaptureStderr();
  add_steps(log, 3, 20);
  log.finish();
  EXPECT_EQ(count(testing::internal::GetCapturedStderr(), "can't be written"), 1u);
}

}  // namespace
}  // namespace weft
