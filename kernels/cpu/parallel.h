// Loops over threads. Without OpenMP (thread sanitizer) everything runs on the calling thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace weft {

/// Calls body(begin, end) on disjoint contiguous ranges that cover [0, count), on at most `num_threads` threads; ranges
/// are multiples of `grain` (but the last), and fewer threads are used when there is less than a grain for each. The
/// split depends only on the arguments. body must not throw.
template <typename Body>
void parallel_for(int num_threads, int64_t count, int64_t grain, const Body& body) {
  int64_t blocks = (count + grain - 1) / grain;
  int threads = static_cast<int>(std::min<int64_t>(num_threads, blocks));
  if (threads <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int thread = 0; thread < threads; ++thread) {
    int64_t begin = blocks * thread / threads * grain;
    int64_t end = std::min(count, blocks * (thread + 1) / threads * grain);
    if (begin < end) body(begin, end);
  }
}

}  // namespace weft
