// What is shown while a run goes on.
#include "report/training_progress.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

namespace weft {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// A progress display on memory, with a clock that the test moves.
class Display {
 public:
  Display(int64_t total_steps, int64_t log_every_steps, bool is_terminal, int columns = 0) {
    stream_ = open_memstream(&bytes_, &size_);
    progress_ = std::make_unique<TrainingProgress>(TrainingProgressOptions{.total_steps = total_steps,
                                                                           .log_every_steps = log_every_steps,
                                                                           .stream = stream_,
                                                                           .is_terminal = is_terminal,
                                                                           .columns = columns,
                                                                           .seconds = [this] { return now_; }});
  }
  ~Display() {
    progress_.reset();
    std::fclose(stream_);
    std::free(bytes_);
  }
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;

  TrainingProgress& progress() { return *progress_; }
  void step(int64_t step, double seconds, double loss = 2) {
    now_ += seconds;
    progress_->update(
        {.step = step, .loss = loss, .learning_rate = 1e-4, .grad_norm = 0.8, .tokens = 100, .seconds = 0.1});
  }
  std::string shown() {
    std::fflush(stream_);
    return {bytes_, size_};
  }
  std::string shown_at_last() {
    progress_.reset();
    return shown();
  }

 private:
  char* bytes_ = nullptr;
  size_t size_ = 0;
  std::FILE* stream_ = nullptr;
  double now_ = 0;
  std::unique_ptr<TrainingProgress> progress_;
};

int64_t num_lines(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

TEST(Progress, a_step_reads_as_documented) {
  StepMetrics metrics{.step = 120,
                      .learning_rate = 1e-4,
                      .grad_norm = 0.8,
                      .tokens = 3412,
                      .seconds = 1,
                      .bound_fraction = 0.61,
                      .memory_bytes = 2'100'000'000};
  EXPECT_EQ(describe_step(metrics, 1000, 2.104),
            "step 120/1000  loss 2.104  lr 1.0e-4  norm 0.80  3 412 tok/s  61% of bound  2.1 GB");
  EXPECT_EQ(describe_step({.step = 5, .skipped = true}, 0, 2), "step 5  loss 2.000  lr 0.0e+0  norm 0.0  skipped");
}

TEST(Progress, durations_and_numbers_are_short) {
  EXPECT_EQ(format_duration(12.2), "12s");
  EXPECT_EQ(format_duration(250), "4m10s");
  EXPECT_EQ(format_duration(7500), "2h05m");
  EXPECT_EQ(format_duration(273600), "3d04h");
  EXPECT_EQ(format_duration(std::nan("")), "?");
  EXPECT_EQ(group_thousands(999), "999");
  EXPECT_EQ(group_thousands(1234567), "1 234 567");
  EXPECT_EQ(group_thousands(-1234), "-1 234");
  EXPECT_EQ(group_thousands(-123), "-123");
}

TEST(Progress, plain_lines_come_once_a_second_and_at_the_end) {
  Display display(100, 1, false);
  for (int64_t step = 1; step <= 100; ++step) display.step(step, 0.1);
  std::string shown = display.shown_at_last();
  EXPECT_EQ(num_lines(shown), 11) << shown;  // 1, 11, 21, …, 91 and the last
  EXPECT_THAT(shown, AllOf(HasSubstr("step 100/100"), Not(HasSubstr("\r"))));
}

TEST(Progress, plain_lines_keep_to_log_every_steps) {
  Display display(20, 8, false);
  for (int64_t step = 1; step <= 20; ++step) display.step(step, 5);
  std::string shown = display.shown_at_last();
  EXPECT_EQ(num_lines(shown), 3) << shown;
  EXPECT_THAT(shown, AllOf(HasSubstr("step 8/20"), HasSubstr("step 16/20"), HasSubstr("step 20/20")));
}

TEST(Progress, a_terminal_has_one_live_line) {
  Display display(100, 1, true, 30);
  for (int64_t step = 1; step <= 10; ++step) display.step(step, 1);
  display.progress().note("saved");
  std::string shown = display.shown_at_last();
  EXPECT_EQ(num_lines(shown), 2) << shown;  // the note's and the last
  EXPECT_THAT(shown, HasSubstr("\rweft: saved\x1b[K\n\rstep 10/100"));
  for (size_t at = 0; (at = shown.find("\rstep", at)) != std::string::npos; ++at)
    EXPECT_LE(shown.find("\x1b[K", at) - at - 1, 29u);
}

TEST(Progress, the_time_left_follows_the_pace) {
  Display display(100, 1, false);
  for (int64_t step = 1; step <= 50; ++step) display.step(step, 2);
  EXPECT_THAT(display.shown(), HasSubstr("step 50/100"));
  EXPECT_THAT(display.shown(), HasSubstr("1m40s left"));
}

TEST(Progress, the_loss_is_smoothed_without_bias_and_survives_nan) {
  Display display(0, 1, false);
  display.step(1, 2, 4.0);
  EXPECT_THAT(display.shown(), HasSubstr("loss 4.0"));
  display.step(2, 2, std::nan(""));
  EXPECT_THAT(display.shown(), Not(HasSubstr("nan")));
  display.step(3, 2, 2.0);
  EXPECT_THAT(display.shown(), HasSubstr("loss 2.947"));  // (0.09 · 4 + 0.1 · 2) / 0.19
}

}  // namespace
}  // namespace weft
