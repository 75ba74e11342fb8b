#include "core/tensor.h"

#include "core/error.h"

namespace weft {

struct Tensor::Storage {
  std::shared_ptr<Allocator> allocator;
  void* pointer;
  size_t bytes;
  MemoryTag tag;

  Storage(std::shared_ptr<Allocator> from, size_t size, MemoryTag kind)
      : allocator(std::move(from)), pointer(allocator->allocate(size, kind)), bytes(size), tag(kind) {}
  ~Storage() { release(); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void release() {
    if (pointer != nullptr) allocator->deallocate(pointer, bytes, tag);
    pointer = nullptr;
  }
  void acquire() {
    if (pointer == nullptr) pointer = allocator->allocate(bytes, tag);
  }
};

std::string_view device_name(DeviceType type) {
  switch (type) {
    case DeviceType::cpu:
      return "cpu";
    case DeviceType::cuda:
      return "cuda";
    case DeviceType::guarded:
      return "guarded";
  }
  return "?";
}

Device Tensor::device() const {
  return storage_ == nullptr ? Device{} : storage_->allocator->device();
}

void Tensor::copy_from_host(const void* from) {
  storage_->allocator->copy_from_host(raw(), from, bytes());
}

void Tensor::copy_to_host(void* to) const {
  storage_->allocator->copy_to_host(to, raw(), bytes());
}

void Tensor::copy_from(const Tensor& from) {
  WEFT_ASSERT(from.device() == device() && from.bytes() == bytes());
  storage_->allocator->copy_within(raw(), from.raw(), bytes());
}

void Tensor::set_values(const void* values, DType dtype) {
  if (is_on_host()) return convert_dtype(values, dtype, raw(), dtype_, num_elements());
  if (dtype == dtype_) return copy_from_host(values);
  std::vector<std::byte> converted(bytes());
  convert_dtype(values, dtype, converted.data(), dtype_, num_elements());
  copy_from_host(converted.data());
}

void Tensor::fill_zero() {
  storage_->allocator->fill_zero(raw(), bytes());
}

Tensor Tensor::empty(std::shared_ptr<Allocator> allocator, const Shape& shape, DType dtype, MemoryTag tag) {
  Tensor tensor;
  size_t bytes = static_cast<size_t>(shape.num_elements()) * dtype_bytes(dtype);
  tensor.storage_ = std::make_shared<Storage>(std::move(allocator), bytes, tag);
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::zeros(std::shared_ptr<Allocator> allocator, const Shape& shape, DType dtype, MemoryTag tag) {
  Tensor tensor = empty(std::move(allocator), shape, dtype, tag);
  tensor.fill_zero();
  return tensor;
}

Tensor Tensor::packed(std::shared_ptr<Allocator> allocator,
                      const Shape& shape,
                      DType dtype,
                      const PackedStorage& packing,
                      MemoryTag tag) {
  WEFT_ASSERT(packing.layout != Layout::row_major);
  Tensor tensor;
  tensor.storage_ = std::make_shared<Storage>(std::move(allocator), packing.bytes, tag);
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.layout_ = packing.layout;
  return tensor;
}

const void* Tensor::raw() const {
  return storage_ == nullptr ? nullptr : static_cast<const std::byte*>(storage_->pointer) + offset_bytes_;
}

void Tensor::release_memory() {
  storage_->release();
}

void Tensor::acquire_memory() {
  storage_->acquire();
}

bool Tensor::has_memory() const {
  return storage_ != nullptr && storage_->pointer != nullptr;
}

size_t Tensor::bytes() const {
  if (layout_ != Layout::row_major) return storage_->bytes;
  return static_cast<size_t>(num_elements()) * dtype_bytes(dtype_);
}

Tensor Tensor::reshape(const Shape& shape) const {
  WEFT_ASSERT(layout_ == Layout::row_major && shape.num_elements() == num_elements(),
              "reshape {} to {}",
              to_string(shape_),
              to_string(shape));
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  WEFT_ASSERT(layout_ == Layout::row_major && 0 <= begin && begin <= end && end <= size(0),
              "slice [{}, {}) of {}",
              begin,
              end,
              to_string(shape_));
  Tensor view = detach();
  view.shape_.set(0, end - begin);
  int64_t row = size(0) == 0 ? 0 : num_elements() / size(0);
  view.offset_bytes_ += static_cast<size_t>(begin * row) * dtype_bytes(dtype_);
  return view;
}

Tensor Tensor::detach() const {
  Tensor view = *this;
  view.grad_slot_ = nullptr;
  return view;
}

void Tensor::check_dtype(DType dtype) const {
  WEFT_ASSERT(dtype == dtype_, "a {} tensor read as {}", dtype_name(dtype_), dtype_name(dtype));
}

void Tensor::check_host() const {
  WEFT_ASSERT(is_on_host(), "the host reads a tensor on {}", device_name(device().type));
}

Tensor on_host(const Tensor& tensor) {
  if (tensor.is_on_host()) return tensor;
  Tensor copy = Tensor::empty(make_cpu_allocator(), tensor.shape(), tensor.dtype());
  tensor.copy_to_host(copy.raw());
  return copy;
}

std::vector<float> to_floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  Tensor host = on_host(tensor);
  convert_dtype(host.raw(), host.dtype(), values.data(), DType::f32, host.num_elements());
  return values;
}

}  // namespace weft
