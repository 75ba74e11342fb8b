#include "parallel/fake_device.h"

#include <cstring>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

class FakeDevice final : public Allocator {
 public:
  void* allocate(size_t bytes, MemoryTag tag) override {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(host_->allocate(bytes, tag)) | kFakeDeviceBit);
  }
  void deallocate(void* pointer, size_t bytes, MemoryTag tag) override { host_->deallocate(real(pointer), bytes, tag); }
  MemoryTracker& memory() override { return host_->memory(); }

  Device device() const override { return {.type = DeviceType::cuda, .index = 0}; }
  void copy_from_host(void* to, const void* from, size_t bytes) override {
    host_->copy_from_host(real(to), from, bytes);
  }
  void copy_to_host(void* to, const void* from, size_t bytes) override { host_->copy_to_host(to, real(from), bytes); }
  void copy_within(void* to, const void* from, size_t bytes) override {
    host_->copy_within(real(to), real(from), bytes);
  }
  void fill_zero(void* to, size_t bytes) override { host_->fill_zero(real(to), bytes); }

 private:
  static void* real(const void* pointer) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    WEFT_ASSERT((address & kFakeDeviceBit) != 0, "the fake GPU is handed an address of the host");
    return reinterpret_cast<void*>(address & ~kFakeDeviceBit);
  }

  std::shared_ptr<Allocator> host_ = make_cpu_allocator();
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

std::unique_ptr<Communicator> on_device(std::unique_ptr<Communicator> inner, std::shared_ptr<Allocator> device) {
  return std::make_unique<OnDevice>(std::move(inner), std::move(device));
}

}  // namespace weft
