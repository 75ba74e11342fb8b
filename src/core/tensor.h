// A dense tensor: reference-counted storage on a device, dtype, shape. Always contiguous; views are slices of dim 0 and
// reshapes.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"
#include "core/shape.h"

namespace weft {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string_view device_name(DeviceType type);

/// How a matrix lies in memory. `row_major` for all tensors; `packed` only for the weights of a matrix product that
/// kernels/linear.h packed for the CPU (same shape, other order and possibly padding; only linear and embedding read
/// it).
enum class Layout : uint8_t { row_major, packed };

struct GradSlot;

class Tensor {
 public:
  Tensor() = default;

  /// Uninitialised memory from `allocator`.
  static Tensor empty(std::shared_ptr<Allocator> allocator,
                      const Shape& shape,
                      DType dtype,
                      MemoryTag tag = MemoryTag::activations);
  static Tensor zeros(std::shared_ptr<Allocator> allocator,
                      const Shape& shape,
                      DType dtype,
                      MemoryTag tag = MemoryTag::activations);
  /// A packed weight: `bytes` of storage behind a [rows, columns] shape.
  static Tensor packed(
      std::shared_ptr<Allocator> allocator, const Shape& shape, DType dtype, size_t bytes, MemoryTag tag);

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int dim) const { return shape_[dim]; }
  int64_t num_elements() const { return shape_.num_elements(); }
  DType dtype() const { return dtype_; }
  Device device() const { return {}; }
  Layout layout() const { return layout_; }
  /// Bytes of the elements in view (of the whole storage for a packed weight).
  size_t bytes() const;

  void* raw() { return const_cast<void*>(std::as_const(*this).raw()); }
  const void* raw() const;
  template <typename T>
  T* data() {
    check_dtype(DTypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  template <typename T>
  const T* data() const {
    check_dtype(DTypeOf<T>::value);
    return static_cast<const T*>(raw());
  }

  /// The same memory and gradient under another shape of as many elements.
  Tensor reshape(const Shape& shape) const;
  /// Rows [begin, end) of dim 0 as a view. Carries no gradient: use ops::gather_rows where one is wanted.
  Tensor slice(int64_t begin, int64_t end) const;
  /// The same memory without its gradient slot.
  Tensor detach() const;

  /// Gives the memory back while the tensor and all its views stay; their elements may not be read until acquire_memory
  /// brings fresh memory, uninitialised, which all of them see. For weights that are gathered only while a block needs
  /// them.
  void release_memory();
  void acquire_memory();
  bool has_memory() const;

  /// Where backward puts this tensor's gradient; null when nobody wants one. See autograd/tape.h.
  const std::shared_ptr<GradSlot>& grad_slot() const { return grad_slot_; }
  void set_grad_slot(std::shared_ptr<GradSlot> slot) { grad_slot_ = std::move(slot); }
  bool wants_grad() const { return grad_slot_ != nullptr; }

 private:
  struct Storage;
  void check_dtype(DType dtype) const;

  std::shared_ptr<Storage> storage_;
  size_t offset_bytes_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
  Layout layout_ = Layout::row_major;
  std::shared_ptr<GradSlot> grad_slot_;
};

/// All elements of a tensor of floats.
std::vector<float> to_floats(const Tensor& tensor);

}  // namespace weft
