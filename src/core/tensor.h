// A dense tensor: reference-counted storage on a device, dtype, shape. Always contiguous; views are slices of dim 0 and
// reshapes.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/memory.h"
#include "core/shape.h"

namespace weft {

/// How a matrix lies in memory. `row_major` for all tensors; the others only for the weights of a matrix product that
/// kernels/linear.h packed for inference (same shape, other order and possibly padding; only linear and embedding read
/// them): `packed` in their own dtype, `int8` and `int4` rounded to so many bits with scales of their own.
enum class Layout : uint8_t { row_major, packed, int8, int4 };

constexpr bool is_quantized(Layout layout) {
  return layout == Layout::int8 || layout == Layout::int4;
}

/// What a packed weight's memory holds.
struct PackedStorage {
  Layout layout = Layout::packed;
  size_t bytes = 0;
};

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
  /// A packed weight: storage as `packing` says behind a [rows, columns] shape. `dtype` is what products with it are
  /// in.
  static Tensor packed(std::shared_ptr<Allocator> allocator,
                       const Shape& shape,
                       DType dtype,
                       const PackedStorage& packing,
                       MemoryTag tag);

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int dim) const { return shape_[dim]; }
  int64_t num_elements() const { return shape_.num_elements(); }
  DType dtype() const { return dtype_; }
  Device device() const;
  bool is_on_host() const { return device().type == DeviceType::cpu; }
  Layout layout() const { return layout_; }
  /// Bytes of the elements in view (of the whole storage for a packed weight).
  size_t bytes() const;

  /// The address on the tensor's device: for kernels and communicators. Elsewhere, use data() or the copies below.
  void* raw() { return const_cast<void*>(std::as_const(*this).raw()); }
  const void* raw() const;
  /// The same with a check of the dtype.
  template <typename T>
  T* pointer() {
    check_dtype(DTypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  template <typename T>
  const T* pointer() const {
    check_dtype(DTypeOf<T>::value);
    return static_cast<const T*>(raw());
  }
  /// Elements that the host may touch: only of a tensor in host memory.
  template <typename T>
  T* data() {
    check_host();
    return pointer<T>();
  }
  template <typename T>
  const T* data() const {
    check_host();
    return pointer<T>();
  }

  /// Copies bytes() from or to host memory, wherever the tensor lies; done when the call returns.
  void copy_from_host(const void* from);
  void copy_to_host(void* to) const;
  /// Copies from a tensor of as many bytes on the same device.
  void copy_from(const Tensor& from);
  /// Sets all elements from host values of a dtype, converted.
  void set_values(const void* values, DType dtype);
  void fill_zero();

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
  void check_host() const;

  std::shared_ptr<Storage> storage_;
  size_t offset_bytes_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
  Layout layout_ = Layout::row_major;
  std::shared_ptr<GradSlot> grad_slot_;
};

/// The same tensor if it is in host memory, else a copy there.
Tensor on_host(const Tensor& tensor);

/// All elements of a tensor of floats, wherever it lies.
std::vector<float> to_floats(const Tensor& tensor);

}  // namespace weft
