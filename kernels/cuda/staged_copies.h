// Large host arrays on their way to a GPU: in pieces through pinned memory, which the GPU reads at the speed of the bus
// while the next piece is copied there. Several threads go on side by side, as loading does.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>

namespace weft::cuda {

class StagedCopies {
 public:
  StagedCopies() = default;
  ~StagedCopies();
  StagedCopies(const StagedCopies&) = delete;
  StagedCopies& operator=(const StagedCopies&) = delete;

  /// Queues the copy on `stream`, of the device that is current; `from` may be gone when the call returns.
  void copy(void* to, const void* from, size_t bytes, cudaStream_t stream);

 private:
  struct Block {
    std::byte* memory = nullptr;
    cudaEvent_t was_read = nullptr;
  };
  /// One that nobody copies into, maybe still read by the GPU; waits for it if there are no more.
  Block take();
  void give_back(const Block& block);

  std::mutex mutex_;
  std::condition_variable returned_;
  std::deque<Block> free_;  // the one longest unused in front
  int num_blocks_ = 0;
};

}  // namespace weft::cuda
