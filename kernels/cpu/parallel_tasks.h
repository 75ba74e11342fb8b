// Tasks of unequal speed over threads: when a core is shared with something else, its thread must not be the one that
// all wait for.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace weft {

/// Calls body(task), or body(task, thread) with thread < num_threads, once for each task in [0, num_tasks) on at most
/// `num_threads` threads. A thread starts with its own contiguous range, so that neighbouring tasks stream through
/// memory in order, and takes over from the others when it is done. Which thread runs a task is not determined: results
/// must not depend on it. body must not throw.
template <typename Body>
void parallel_tasks(int num_threads, int64_t num_tasks, const Body& body) {
  auto run = [&body](int64_t task, int thread) {
    if constexpr (std::is_invocable_v<const Body&, int64_t, int>) {
      body(task, thread);
    } else {
      body(task);
    }
  };
  int threads = static_cast<int>(num_threads < num_tasks ? num_threads : num_tasks);
  if (threads <= 1) {
    for (int64_t task = 0; task < num_tasks; ++task) run(task, 0);
    return;
  }
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::vector<Range> ranges(static_cast<size_t>(threads));
  for (int thread = 0; thread < threads; ++thread) {
    ranges[thread].next = num_tasks * thread / threads;
    ranges[thread].end = num_tasks * (thread + 1) / threads;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int thread = 0; thread < threads; ++thread) {
    for (int i = 0; i < threads; ++i) {
      Range& range = ranges[(thread + i) % threads];
      for (int64_t task = range.next.fetch_add(1); task < range.end; task = range.next.fetch_add(1)) run(task, thread);
    }
  }
}

}  // namespace weft
