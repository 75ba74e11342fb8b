#include "train/work_queue.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace weft {
namespace {

TEST(WorkQueue, runs_jobs_in_order) {
  for (bool with_thread : {false, true}) {
    std::vector<int> done;
    WorkQueue queue(with_thread);
    for (int i = 0; i < 100; ++i) queue.add([&done, i] { done.push_back(i); });
    queue.wait();
    ASSERT_EQ(done.size(), 100u);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
  }
}

TEST(WorkQueue, hands_over_the_first_exception_once) {
  WorkQueue queue(true);
  bool ran_after = false;
  queue.add([] { throw std::runtime_error("lost"); });
  EXPECT_THROW(queue.wait(), std::runtime_error);
  queue.add([&] { ran_after = true; });
  queue.wait();
  EXPECT_TRUE(ran_after);
}

}  // namespace
}  // namespace weft
