#include "parallel/work_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <vector>

namespace weft {
namespace {

TEST(WorkQueue, runs_jobs_in_order) {
  std::vector<int> done;
  WorkQueue queue;
  std::shared_future<void> last;
  for (int i = 0; i < 100; ++i) last = queue.add([&done, i] { done.push_back(i); });
  last.get();
  ASSERT_EQ(done.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
}

TEST(WorkQueue, jobs_after_a_failed_one_fail_with_it) {
  WorkQueue queue;
  bool ran_after = false;
  auto failed = queue.add([] { throw std::runtime_error("lost"); });
  auto after = queue.add([&] { ran_after = true; });
  EXPECT_THROW(failed.get(), std::runtime_error);
  EXPECT_THROW(after.get(), std::runtime_error);
  EXPECT_FALSE(ran_after);
}

TEST(WorkQueue, lets_go_of_what_a_job_holds) {
  WorkQueue queue;
  auto held = std::make_shared<int>(1);
  queue.add([held] {}).get();
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace weft
