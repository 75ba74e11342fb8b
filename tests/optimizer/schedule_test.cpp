#include "optimizer/schedule.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(Schedule, PiecewiseLinearStartsAtZeroAndStaysAtTheLastPoint) {
  ScheduleOptions schedule{
      .kind = ScheduleKind::piecewise_linear, .learning_rate = 2, .points = {{1000, 1.0}, {2000, 0.1}}};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0), 0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 250), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 1000), 2);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 1500), 2 * 0.55);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 2000), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 1000000), 0.2);
}

TEST(Schedule, PiecewiseLinearMayStartElsewhere) {
  ScheduleOptions schedule{.kind = ScheduleKind::piecewise_linear, .learning_rate = 1, .points = {{0, 0.5}, {10, 1.0}}};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 5), 0.75);
}

TEST(Schedule, CosineEndsAtItsMinimumAndStaysThere) {
  ScheduleOptions schedule{.learning_rate = 1, .total_steps = 10, .minimum_factor = 0.25, .points = {}};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0), 1);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 5), 0.625);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 10), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 1000), 0.25);
}

TEST(Schedule, WarmupAsLongAsTrainingIsFinite) {
  ScheduleOptions schedule{.learning_rate = 1, .warmup_steps = 4, .total_steps = 4, .points = {}};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 3), 0.75);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 4), 1);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 5), 0);
}

}  // namespace
}  // namespace weft
