#include "parallel/fake_device.h"

#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "core/error.h"

namespace weft {
namespace {

class FakeDevice final : public Allocator {
 public:
  ~FakeDevice() override {
    stream_.synchronize();
    for (auto& [bytes, blocks] : freed_) {
      for (void* block : blocks) host_->deallocate(block, bytes, MemoryTag::workspace);
    }
  }

  void* allocate(size_t bytes, MemoryTag tag) override {
    tracker_.add(tag, static_cast<int64_t>(bytes));
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(take(bytes)) | kFakeDeviceBit);
  }
  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override {
    tracker_.add(tag, -static_cast<int64_t>(bytes));
    void* block = real(pointer);
    stream_.enqueue([block, bytes] { std::memset(block, kFreedByte, bytes); });
    const std::lock_guard lock(mutex_);
    freed_[bytes].push_back(block);
  }
  MemoryTracker& memory() override { return tracker_; }

  Device device() const override { return {.type = DeviceType::cuda, .index = 0}; }
  void copy_from_host(void* to, const void* from, size_t bytes) override {
    stream_.enqueue([to = real(to), from, bytes] { std::memcpy(to, from, bytes); });
    stream_.synchronize();
  }
  void copy_to_host(void* to, const void* from, size_t bytes) override {
    stream_.enqueue([to, from = real(from), bytes] { std::memcpy(to, from, bytes); });
    stream_.synchronize();
  }
  void copy_within(void* to, const void* from, size_t bytes) override {
    stream_.enqueue([to = real(to), from = real(from), bytes] { std::memmove(to, from, bytes); });
  }
  void fill_zero(void* to, size_t bytes) override {
    stream_.enqueue([to = real(to), bytes] { std::memset(to, 0, bytes); });
  }
  void synchronize() override { stream_.synchronize(); }

  FakeStream& stream() { return stream_; }

 private:
  static void* real(const void* pointer) {
    WEFT_ASSERT((reinterpret_cast<uintptr_t>(pointer) & kFakeDeviceBit) != 0,
                "the fake GPU is handed an address of the host");
    return real_address(pointer);
  }

  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    std::vector<void*>& blocks = freed_[bytes];
    if (blocks.empty()) return host_->allocate(bytes, MemoryTag::workspace);
    void* block = blocks.back();
    blocks.pop_back();
    return block;
  }

  std::shared_ptr<Allocator> host_ = make_cpu_allocator();
  MemoryTracker tracker_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> freed_;
  FakeStream stream_;
};

class OnDevice final : public Communicator {
 public:
  OnDevice(std::unique_ptr<Communicator> inner, std::shared_ptr<Allocator> device)
      : inner_(std::move(inner)), device_(std::move(device)) {}

  std::string_view backend() const override { return inner_->backend(); }
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  bool allows_concurrent_groups() const override { return inner_->allows_concurrent_groups(); }

  void all_reduce(Tensor& tensor, ReduceOp op) override {
    with(tensor, [&](Tensor& moved) { inner_->all_reduce(moved, op); });
  }
  void all_gather(const Tensor& input, Tensor& output) override {
    with(output, [&](Tensor& moved) { inner_->all_gather(there(input), moved); });
  }
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    with(output, [&](Tensor& moved) { inner_->reduce_scatter(there(input), moved, op); });
  }
  void broadcast(Tensor& tensor, int root) override {
    with(tensor, [&](Tensor& moved) { inner_->broadcast(moved, root); });
  }
  bool overlaps() const override { return inner_->overlaps(); }
  PendingCall start_all_reduce(Tensor tensor, ReduceOp op) override {
    Tensor moved = there(tensor);
    return back(tensor, moved, inner_->start_all_reduce(moved, op));
  }
  PendingCall start_all_gather(const Tensor& input, Tensor output) override {
    Tensor moved = there(output);
    return back(output, moved, inner_->start_all_gather(there(input), moved));
  }
  PendingCall start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp op) override {
    Tensor moved = there(output);
    return back(output, moved, inner_->start_reduce_scatter(there(input), moved, op));
  }
  void barrier() override { inner_->barrier(); }
  void send(const Tensor& tensor, int peer) override { inner_->send(there(tensor), peer); }
  void receive(Tensor& tensor, int peer) override {
    with(tensor, [&](Tensor& moved) { inner_->receive(moved, peer); });
  }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return on_device(inner_->split(color, key), device_);
  }

 private:
  Tensor there(const Tensor& tensor) const {
    if (!tensor.defined()) return tensor;
    Tensor moved = Tensor::empty(device_, tensor.shape(), tensor.dtype());
    moved.copy_from_host(tensor.raw());
    return moved;
  }

  static PendingCall back(Tensor tensor, const Tensor& moved, PendingCall call) {
    return PendingCall([tensor, moved, shared = std::make_shared<PendingCall>(std::move(call))]() mutable {
      shared->wait();
      moved.copy_to_host(tensor.raw());
    });
  }

  template <typename Body>
  void with(Tensor& tensor, Body body) const {
    Tensor moved = there(tensor);
    body(moved);
    if (tensor.defined()) moved.copy_to_host(tensor.raw());
  }

  std::unique_ptr<Communicator> inner_;
  std::shared_ptr<Allocator> device_;
};

}  // namespace

std::shared_ptr<Allocator> make_fake_device() {
  return std::make_shared<FakeDevice>();
}

FakeStream& fake_stream(Allocator& fake_device) {
  return dynamic_cast<FakeDevice&>(fake_device).stream();
}

std::unique_ptr<Communicator> on_device(std::unique_ptr<Communicator> inner, std::shared_ptr<Allocator> device) {
  return std::make_unique<OnDevice>(std::move(inner), std::move(device));
}

}  // namespace weft
