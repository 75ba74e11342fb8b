// One GPU as the CUDA kernels see it: a stream on which everything runs in order, memory that is reused in that order,
// and the way of small host arrays to it. The Allocator of a context on this GPU, and thereby Stream::workspace.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "kernels/cuda/staged_copies.h"
#include "kernels/cuda/step_graph.h"
#include "kernels/stream.h"

namespace weft::cuda {

class BlasHandle;

class CudaDevice final : public Allocator {
 public:
  explicit CudaDevice(int index);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  void* allocate(size_t bytes, MemoryTag tag) override;
  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override;
  MemoryTracker& memory() override { return tracker_; }

  Device device() const override { return {.type = DeviceType::cuda, .index = index_}; }
  void copy_from_host(void* to, const void* from, size_t bytes) override;
  void copy_to_host(void* to, const void* from, size_t bytes) override;
  void copy_within(void* to, const void* from, size_t bytes) override;
  void copy_rows(
      void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t num_rows) override;
  void fill_zero(void* to, size_t bytes) override;
  void synchronize() override;
  std::shared_ptr<Allocator> make_host_allocator() override;
  void run_step(uint64_t key, const std::function<void()>& step, const LateValues& late) override;
  bool is_asynchronous() const override { return true; }
  std::function<void()> start_copy_to_host(void* to, const void* from, size_t bytes) override;

  /// Makes this the device of the calling thread, on which its launches run.
  void make_current() const;
  /// The steps that run as graphs; launches go by kernels/cuda/launch.cuh, which knows of them.
  StepGraphs& graphs() { return graphs_; }
  /// Where the numbers lie that the running step would read from `host` if they were there yet; null: they are there.
  const int32_t* late_values(const int32_t* host, int64_t count);
  /// The one stream of this device; kernels, copies and the reuse of freed blocks are ordered by it.
  cudaStream_t stream() const { return stream_; }
  int num_multiprocessors() const { return num_multiprocessors_; }
  /// Bytes of shared memory that one block may ask for.
  int max_shared_bytes() const { return max_shared_bytes_; }
  /// Compute capability, 90 for an H100.
  int architecture() const { return architecture_; }
  /// cuBLASLt, loaded at first use (kernels/cuda/blas.h).
  BlasHandle& blas();

  /// Queues a copy of a host array, which may be gone when the call returns.
  void upload(void* to, const void* from, size_t bytes);

 private:
  class PinnedRing;
  bool is_left_to_graph(const void* to, const void* from, size_t bytes);
  void* take_cached(size_t size);
  void* fresh(size_t size);
  void release_cached();

  int index_;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  int num_multiprocessors_ = 0, max_shared_bytes_ = 0, architecture_ = 0;
  MemoryTracker tracker_;
  StepGraphs graphs_;
  LateValues late_;
  bool were_late_values_read_ = false;
  std::mutex mutex_;
  /// Free blocks by size. The lowest address goes first, so that a step that is repeated finds its blocks where it
  /// found them before.
  std::map<size_t, std::set<void*>> cache_;
  std::unique_ptr<PinnedRing> ring_;
  StagedCopies staged_copies_;
  std::unique_ptr<BlasHandle> blas_;
};

/// The device behind a stream that a kernel was handed.
inline CudaDevice& device_of(const Stream& stream) {
  auto& device = static_cast<CudaDevice&>(*stream.workspace);
  device.make_current();
  return device;
}

/// Scratch memory of one kernel call; given back in stream order, so that it may go out of scope after the launch.
template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(CudaDevice& device, int64_t count)
      : device_(&device),
        bytes_(static_cast<size_t>(count) * sizeof(T)),
        pointer_(static_cast<T*>(device.allocate(bytes_, MemoryTag::workspace))) {}
  ~DeviceBuffer() {
    if (pointer_ != nullptr) device_->deallocate(pointer_, bytes_, MemoryTag::workspace);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : device_(other.device_), bytes_(other.bytes_), pointer_(std::exchange(other.pointer_, nullptr)) {}
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;

  T* data() const { return pointer_; }

 private:
  CudaDevice* device_ = nullptr;
  size_t bytes_ = 0;
  T* pointer_ = nullptr;
};

/// A host array's copy on the device, for the kernels launched next.
template <typename T>
DeviceBuffer<T> uploaded(CudaDevice& device, const T* values, int64_t count) {
  DeviceBuffer<T> buffer(device, count);
  device.upload(buffer.data(), values, static_cast<size_t>(count) * sizeof(T));
  return buffer;
}

}  // namespace weft::cuda
