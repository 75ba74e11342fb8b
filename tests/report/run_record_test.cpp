// Reading a run's directory, whatever is in it.
#include "report/run_record.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <cmath>

#include "core/error.h"
#include "report/report_page.h"
#include "report/temporary_directory.h"
#include "report/text_files.h"

namespace weft {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::string error_of(const std::string& directory) {
  try {
    read_run(directory);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    std::string text = error.what();
    EXPECT_EQ(text.find('\n'), std::string::npos);
    return text;
  }
  return "no error";
}

TEST(RunRecord, missing_and_empty_directories_are_one_clear_line) {
  TemporaryDirectory directory;
  EXPECT_THAT(error_of(directory.path("nowhere")), AllOf(HasSubstr("nowhere"), HasSubstr("no such directory")));
  EXPECT_THAT(error_of(std::string(5000, 'x')), HasSubstr("no such directory"));
  EXPECT_THAT(error_of(directory.path()), HasSubstr("no metrics.jsonl"));
  directory.write("metrics.jsonl", "");
  EXPECT_THAT(error_of(directory.path()), HasSubstr("no step yet"));
  directory.write("metrics.jsonl", "junk\n{}\n");
  EXPECT_THAT(error_of(directory.path()), HasSubstr("2 lines that can't be read"));
}

TEST(RunRecord, a_pipe_in_place_of_the_file_does_not_hang) {
  TemporaryDirectory directory;
  ASSERT_EQ(mkfifo(directory.path("metrics.jsonl").c_str(), 0600), 0);
  EXPECT_THAT(error_of(directory.path()), HasSubstr("no metrics.jsonl"));
}

TEST(RunRecord, hostile_lines_are_counted_and_left_out) {
  TemporaryDirectory directory;
  std::string good = R"({"type":"step","step":1,"loss":2.5,"unknown":{"a":[1]}})";
  std::vector<std::string> bad = {
      R"({"type":"step","step":-1,"loss":2})",
      R"({"type":"step","step":1.5,"loss":2})",
      R"({"type":"step","step":18446744073709551615,"loss":2})",
      R"({"type":"step","step":"2","loss":2})",
      R"({"type":"step","step":3,"loss":NaN})",
      R"({"type":"step","step":3,"loss":1e999})",
      R"({"type":"other","step":3})",
      R"({"type":["step"],"step":3})",
      R"([1,2,3])",
      R"("step")",
      "\xff\xfe{}",
      std::string("\0\0\0\0", 4),
      std::string(200'000, '['),
      std::string(kMaxLineBytes + 1, ' '),
  };
  std::string file = good + "\n";
  for (const std::string& line : bad) file += line + "\n";
  file += R"({"type":"step","step":9,"loss":"a string","tokens":-5,"memory_bytes":1e300,"seconds":{}})";
  directory.write("metrics.jsonl", file);
  RunRecord run = read_run(directory.path());
  ASSERT_EQ(run.steps.size(), 2u);
  EXPECT_EQ(run.unused_lines, static_cast<int64_t>(bad.size()));
  EXPECT_EQ(run.steps[0].loss, 2.5);
  EXPECT_TRUE(std::isnan(run.steps[1].loss));
  EXPECT_EQ(run.steps[1].tokens, 0);
  EXPECT_EQ(run.steps[1].memory_bytes, 0);
}

TEST(RunRecord, of_a_step_that_stands_twice_the_later_line_counts) {
  TemporaryDirectory directory;
  directory.write("metrics.jsonl",
                  R"({"type":"step","step":1,"loss":1}
{"type":"step","step":3,"loss":3}
{"type":"step","step":2,"loss":2}
{"type":"step","step":3,"loss":4}
)");
  std::vector<std::pair<int64_t, double>> found;
  for (const StepMetrics& step : read_run(directory.path()).steps) found.emplace_back(step.step, step.loss);
  EXPECT_THAT(found, ElementsAre(Pair(1, 1.0), Pair(2, 2.0), Pair(3, 4.0)));
}

TEST(RunRecord, the_summary_ignores_what_is_not_finite) {
  RunRecord run;
  run.steps = {{.step = 1, .loss = 3, .tokens = 100, .tokens_seen = 100, .seconds = 1, .memory_bytes = 5},
               {.step = 2, .loss = 1, .tokens = 100, .tokens_seen = 200, .seconds = 0.5, .memory_bytes = 7},
               {.step = 3, .loss = 2, .tokens = 100, .tokens_seen = 300, .seconds = 2, .memory_bytes = 7},
               {.step = 4, .loss = std::nan(""), .tokens_seen = 300, .skipped = true}};
  run.evaluations = {{.step = 2, .loss = 1.5}, {.step = 4, .loss = 1.25}};
  RunSummary summary = summarise(run);
  EXPECT_EQ(summary.last_step, 4);
  EXPECT_EQ(summary.last_loss, 2);
  EXPECT_EQ(summary.best_loss, 1);
  EXPECT_EQ(summary.best_step, 2);
  EXPECT_EQ(summary.best_evaluation_loss, 1.25);
  EXPECT_EQ(summary.median_tokens_per_second, 100);
  EXPECT_EQ(summary.training_seconds, 3.5);
  EXPECT_EQ(summary.skipped_steps, 1);
  EXPECT_EQ(summary.memory_bytes, 7);
}

TEST(RunRecord, a_config_flattens_to_paths) {
  std::string text = R"(# comment: none
model {
  path: "a: b"
}
data { 
  sources {
    path: "x"
  }
  sources: {
    path: "y"
  }
}
train {
  steps: 100
}
)";
  EXPECT_THAT(flatten_config(text),
              ElementsAre(Pair("model.path", "\"a: b\""),
                          Pair("data.sources.path", "\"x\""),
                          Pair("data.sources.path", "\"y\""),
                          Pair("train.steps", "100")));
}

TEST(RunRecord, braces_without_end_cost_linear_time) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "a {\nb: 1\n";
  EXPECT_EQ(flatten_config(text).size(), 100'000u);
  EXPECT_TRUE(flatten_config(std::string(1 << 20, '}')).empty());
}

TEST(RunRecord, runs_of_the_same_name_are_told_apart_by_their_paths) {
  std::vector<RunRecord> runs(3);
  runs[0] = {.name = "lora", .directory = "a/lora"};
  runs[1] = {.name = "lora", .directory = "b/lora"};
  runs[2] = {.name = "full", .directory = "b/full"};
  name_apart(runs);
  EXPECT_EQ(runs[0].name, "a/lora");
  EXPECT_EQ(runs[1].name, "b/lora");
  EXPECT_EQ(runs[2].name, "full");
}

}  // namespace
}  // namespace weft
