// Where a backward kernel adds the gradient of a vector that it reads: a parameter's, or, in conditional norms, an
// activation's.
#pragma once

#include <utility>

#include "autograd/tape.h"

namespace weft {

class VectorGradient {
 public:
  /// Zeros to add to, in f32 (f64 for f64), or what a parameter's slot holds already.
  VectorGradient(Context& context, const Tensor& vector) {
    if (!vector || !vector.wants_grad()) return;
    DType dtype = parameter_grad_dtype(vector.dtype());
    is_parameter_ = vector.grad_slot()->tag == MemoryTag::grads;
    if (!is_parameter_) {
      tensor_ = context.zeros(vector.shape(), dtype);
      return;
    }
    GradTarget target = grad_target(context, *vector.grad_slot(), vector.shape(), dtype);
    tensor_ = target.tensor;
    if (!target.accumulate) tensor_.fill_zero();
  }

  void* raw() { return tensor_ ? tensor_.raw() : nullptr; }

  /// After the kernel ran.
  void hand_over(Context& context, const Tensor& vector) {
    if (!tensor_ || is_parameter_) return;
    Tensor gradient = tensor_.dtype() == vector.dtype() ? tensor_ : copy_of(context, tensor_, vector.dtype());
    add_grad(context, vector.grad_slot(), std::move(gradient));
  }

 private:
  Tensor tensor_;
  bool is_parameter_ = false;
};

}  // namespace weft
