#include "kernels/cuda/device.h"

#include <array>
#include <cstring>

#include "core/block_size.h"
#include "core/error.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda_devices.h"

namespace weft::cuda {
namespace {

constexpr size_t kAlignment = 256;
/// Larger blocks go back to the driver's pool, which can join them to others.
constexpr size_t kMaxCachedBlock = size_t{64} << 20;
constexpr size_t kRingBytes = size_t{8} << 20;

size_t block_size(size_t bytes) {
  return cached_block_size(bytes, kAlignment);
}

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "reading a device attribute");
  return value;
}

/// Pinned host memory, which the GPU reads and writes at the speed of the bus. Blocks are kept for reuse: pinning costs
/// more than most copies.
class PinnedAllocator final : public Allocator {
 public:
  ~PinnedAllocator() override {
    for (auto& [size, blocks] : cache_) {
      for (void* block : blocks) cudaFreeHost(block);
    }
  }

  void* allocate(size_t bytes, MemoryTag tag) override {
    size_t size = block_size(bytes);
    tracker_.add(tag, static_cast<int64_t>(bytes));
    {
      std::lock_guard lock(mutex_);
      std::vector<void*>& blocks = cache_[size];
      if (!blocks.empty()) {
        void* block = blocks.back();
        blocks.pop_back();
        return block;
      }
    }
    void* block = nullptr;
    check(cudaMallocHost(&block, size), "allocating pinned memory");
    return block;
  }

  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override {
    tracker_.add(tag, -static_cast<int64_t>(bytes));
    std::lock_guard lock(mutex_);
    cache_[block_size(bytes)].push_back(pointer);
  }

  MemoryTracker& memory() override { return tracker_; }

 private:
  MemoryTracker tracker_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> cache_;
};

}  // namespace

/// Pinned host memory through which small arrays travel. Two halves; a half is written again only when the copies out
/// of it have run.
class CudaDevice::PinnedRing {
 public:
  PinnedRing() {
    check(cudaMallocHost(reinterpret_cast<void**>(&memory_), kRingBytes), "allocating pinned memory");
    for (cudaEvent_t& event : used_) {
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    }
  }
  ~PinnedRing() {
    for (cudaEvent_t event : used_) cudaEventDestroy(event);
    cudaFreeHost(memory_);
  }
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  static bool fits(size_t bytes) { return bytes <= kRingBytes / 2; }

  /// A pinned copy of `from`, to be read by a copy that is queued on `stream` before the next call.
  const void* stage(const void* from, size_t bytes, cudaStream_t stream) {
    size_t size = (bytes + 63) / 64 * 64;
    if (position_ + size > kRingBytes / 2) {
      check(cudaEventRecord(used_[half_], stream), "recording an event");
      half_ = 1 - half_;
      position_ = 0;
      check(cudaEventSynchronize(used_[half_]), "waiting for copies");
    }
    std::byte* place = memory_ + half_ * (kRingBytes / 2) + position_;
    std::memcpy(place, from, bytes);
    position_ += size;
    return place;
  }

 private:
  std::byte* memory_ = nullptr;
  cudaEvent_t used_[2] = {};
  size_t half_ = 0, position_ = 0;
};

CudaDevice::CudaDevice(int index) : index_(index) {
  make_current();
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  graphs_.use(stream_);
  check(cudaDeviceGetDefaultMemPool(&pool_, index), "finding the memory pool");
  uint64_t keep_all = UINT64_MAX;
  check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all), "setting up the memory pool");
  num_multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount, index);
  max_shared_bytes_ = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  architecture_ =
      attribute(cudaDevAttrComputeCapabilityMajor, index) * 10 + attribute(cudaDevAttrComputeCapabilityMinor, index);
  ring_ = std::make_unique<PinnedRing>();
}

CudaDevice::~CudaDevice() {
  cudaStreamSynchronize(stream_);
  release_cached();
  blas_ = nullptr;
  ring_ = nullptr;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

std::shared_ptr<Allocator> CudaDevice::make_host_allocator() {
  return std::make_shared<PinnedAllocator>();
}

void CudaDevice::make_current() const {
  thread_local int current = -1;
  if (current == index_) return;
  check(cudaSetDevice(index_), "choosing the device");
  current = index_;
}

BlasHandle& CudaDevice::blas() {
  make_current();
  if (blas_ == nullptr) blas_ = std::make_unique<BlasHandle>();
  return *blas_;
}

void* CudaDevice::take_cached(size_t size) {
  std::lock_guard lock(mutex_);
  auto found = cache_.find(size);
  if (found == cache_.end() || found->second.empty()) return nullptr;
  return found->second.extract(found->second.begin()).value();
}

void* CudaDevice::fresh(size_t size) {
  void* pointer = nullptr;
  // What is allocated in the stream's order during a capture would be the graph's own.
  if (graphs_.is_recording()) {
    if (cudaMalloc(&pointer, size) == cudaSuccess) return pointer;
    cudaGetLastError();
    return nullptr;
  }
  if (cudaMallocAsync(&pointer, size, stream_) == cudaSuccess) return pointer;
  cudaGetLastError();
  return nullptr;
}

void CudaDevice::release_cached() {
  std::lock_guard lock(mutex_);
  for (auto& [size, blocks] : cache_) {
    for (void* block : blocks) cudaFreeAsync(block, stream_);
  }
  cache_.clear();
}

void* CudaDevice::allocate(size_t bytes, MemoryTag tag) {
  size_t size = block_size(bytes);
  void* pointer = take_cached(size);
  if (pointer == nullptr) pointer = fresh(size);
  if (pointer == nullptr && !graphs_.is_recording()) {
    release_cached();
    cudaStreamSynchronize(stream_);
    cudaMemPoolTrimTo(pool_, 0);
    pointer = fresh(size);
  }
  if (pointer == nullptr) {
    fail(ExitCode::out_of_memory,
         "out of GPU memory: {:.1f} MB for {} could not be allocated; in use: {}; use a smaller batch, a shorter "
         "context, gradient checkpointing or more ranks",
         static_cast<double>(bytes) / 1e6,
         memory_tag_name(tag),
         tracker_.report());
  }
  tracker_.add(tag, static_cast<int64_t>(bytes));
  return pointer;
}

void CudaDevice::deallocate(void* pointer, size_t bytes, MemoryTag tag) {
  tracker_.add(tag, -static_cast<int64_t>(bytes));
  size_t size = block_size(bytes);
  if (size > kMaxCachedBlock && !graphs_.is_recording() && !graphs_.is_replaying()) {
    cudaFreeAsync(pointer, stream_);
    return;
  }
  std::lock_guard lock(mutex_);
  cache_[size].insert(pointer);
}

/// In a replayed step: notes the operation, which the graph does.
bool CudaDevice::is_left_to_graph(const void* to, const void* from, size_t bytes) {
  if (graphs_.is_recording() || graphs_.is_replaying()) {
    const std::array<uintptr_t, 3> operation = {
        reinterpret_cast<uintptr_t>(to), reinterpret_cast<uintptr_t>(from), bytes};
    graphs_.note_value(operation);
  }
  return graphs_.is_replaying();
}

void CudaDevice::copy_from_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  upload(to, from, bytes);
}

void CudaDevice::copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (graphs_.is_recording() || graphs_.is_replaying()) return graphs_.refuse();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the device");
  synchronize();
}

std::function<void()> CudaDevice::start_copy_to_host(void* to, const void* from, size_t bytes) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  std::shared_ptr<CUevent_st> copied(event, cudaEventDestroy);
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the device");
  check(cudaEventRecord(event, stream_), "recording an event");
  return [copied] { check(cudaEventSynchronize(copied.get()), "the work queued on the device"); };
}

void CudaDevice::run_step(uint64_t key, const std::function<void()>& step, const LateValues& late) {
  late_ = late;
  were_late_values_read_ = late.host == nullptr;
  try {
    graphs_.run(key, step);
  } catch (...) {
    late_ = {};
    throw;
  }
  late_ = {};
  WEFT_ASSERT(were_late_values_read_, "late values that no kernel has read");
}

const int32_t* CudaDevice::late_values(const int32_t* host, int64_t count) {
  if (host != late_.host || host == nullptr) return nullptr;
  WEFT_ASSERT(count == late_.count, "late values that are read in part");
  were_late_values_read_ = true;
  return late_.device;
}

void CudaDevice::copy_within(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (is_left_to_graph(to, from, bytes)) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copying on the device");
}

void CudaDevice::copy_rows(
    void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t num_rows) {
  if (row_bytes == 0 || num_rows == 0 || is_left_to_graph(to, from, row_bytes * num_rows)) return;
  check(cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, num_rows, cudaMemcpyDeviceToDevice, stream_),
        "copying rows on the device");
}

void CudaDevice::fill_zero(void* to, size_t bytes) {
  if (bytes == 0) return;
  if (is_left_to_graph(to, nullptr, bytes)) return;
  check(cudaMemsetAsync(to, 0, bytes, stream_), "filling with zeros");
}

void CudaDevice::synchronize() {
  check(cudaStreamSynchronize(stream_), "the work queued on the device");
}

void CudaDevice::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (!PinnedRing::fits(bytes)) {
    if (graphs_.is_recording() || graphs_.is_replaying()) return graphs_.refuse();
    make_current();  // the thread may be one of several that load
    staged_copies_.copy(to, from, bytes, stream_);
    return;
  }
  if (graphs_.is_recording() || graphs_.is_replaying()) graphs_.note(from, bytes);
  if (is_left_to_graph(to, nullptr, bytes)) return;
  std::lock_guard lock(mutex_);
  const void* staged = graphs_.is_recording() ? graphs_.keep(from, bytes) : ring_->stage(from, bytes, stream_);
  check(cudaMemcpyAsync(to, staged, bytes, cudaMemcpyHostToDevice, stream_), "copying to the device");
}

}  // namespace weft::cuda

namespace weft {

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::string no_cuda_reason() {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (status == cudaSuccess) return "no GPU is visible";
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format("no GPU: there is no NVIDIA driver, or one too old for CUDA {}.{}",
                       CUDART_VERSION / 1000,
                       CUDART_VERSION % 1000 / 10);
  }
  return fmt::format("no GPU: {}", cudaGetErrorString(status));
}

CudaDeviceInfo cuda_device_info(int index) {
  cudaDeviceProp properties;
  cuda::check(cudaGetDeviceProperties(&properties, index), "reading the device's properties");
  CudaDeviceInfo info{.name = properties.name,
                      .architecture = properties.major * 10 + properties.minor,
                      .num_multiprocessors = properties.multiProcessorCount,
                      .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                      .free_bytes = 0,
                      .pci_bus_id = {}};
  int current = 0;
  size_t free_bytes = 0, total_bytes = 0;
  cuda::check(cudaGetDevice(&current), "finding the current device");
  cuda::check(cudaSetDevice(index), "choosing the device");
  cuda::check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
  cuda::check(cudaSetDevice(current), "choosing the device");
  info.free_bytes = static_cast<int64_t>(free_bytes);
  char bus_id[32] = {};
  cuda::check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index), "reading the bus id");
  info.pci_bus_id = bus_id;
  return info;
}

bool cuda_peer_access(int from, int to) {
  int can_access = 0;
  if (cudaDeviceCanAccessPeer(&can_access, from, to) == cudaSuccess) return can_access != 0;
  cudaGetLastError();
  return false;
}

void* cuda_stream(const Allocator& allocator) {
  return static_cast<const cuda::CudaDevice&>(allocator).stream();
}

std::shared_ptr<Allocator> make_cuda_allocator(int index) {
  int count = cuda_device_count();
  if (count == 0) fail(ExitCode::usage, "--device cuda: {}; use --device cpu", no_cuda_reason());
  if (index < 0 || index >= count) {
    fail(ExitCode::usage, "--device cuda:{}: this process sees {} GPUs (CUDA_VISIBLE_DEVICES?)", index, count);
  }
  return std::make_shared<cuda::CudaDevice>(index);
}

}  // namespace weft
