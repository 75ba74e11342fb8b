#include "kernels/cuda/staged_copies.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/check.h"

namespace weft::cuda {
namespace {

constexpr size_t kBlockBytes = size_t{4} << 20;
constexpr int kMaxBlocks = 16;

}  // namespace

StagedCopies::~StagedCopies() {
  for (const Block& block : free_) {
    cudaEventDestroy(block.was_read);
    cudaFreeHost(block.memory);
  }
}

void StagedCopies::copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  for (size_t begin = 0; begin < bytes; begin += kBlockBytes) {
    size_t size = std::min(kBlockBytes, bytes - begin);
    Block block = take();
    try {
      check(cudaEventSynchronize(block.was_read), "waiting for copies");
      std::memcpy(block.memory, static_cast<const std::byte*>(from) + begin, size);
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + begin, block.memory, size, cudaMemcpyHostToDevice, stream),
            "copying to the device");
      check(cudaEventRecord(block.was_read, stream), "recording an event");
    } catch (...) {
      give_back(block);
      throw;
    }
    give_back(block);
  }
}

StagedCopies::Block StagedCopies::take() {
  std::unique_lock lock(mutex_);
  // A new block is better than one that the GPU may still read.
  if (num_blocks_ < kMaxBlocks) {
    Block block;
    check(cudaMallocHost(reinterpret_cast<void**>(&block.memory), kBlockBytes), "allocating pinned memory");
    check(cudaEventCreateWithFlags(&block.was_read, cudaEventDisableTiming), "making an event");
    ++num_blocks_;
    return block;
  }
  returned_.wait(lock, [&] { return !free_.empty(); });
  Block block = free_.front();
  free_.pop_front();
  return block;
}

void StagedCopies::give_back(const Block& block) {
  {
    std::lock_guard lock(mutex_);
    free_.push_back(block);
  }
  returned_.notify_one();
}

}  // namespace weft::cuda
