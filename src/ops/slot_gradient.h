// Where a backward kernel leaves the gradients of what packed sequences started from: one row a sequence, added to the
// rows of the tensor that they were read from. Several sequences may have read the same row.
#pragma once

#include <memory>
#include <vector>

#include "autograd/tape.h"

namespace weft {

class SlotGradient {
 public:
  /// `slots` is [slots, …] or null; spans have a `slot` each.
  template <typename Spans>
  SlotGradient(const Tensor* slots, const Spans& spans) {
    if (slots == nullptr || !slots->wants_grad()) return;
    shape_ = slots->shape();
    dtype_ = slots->dtype();
    slot_ = slots->grad_slot();
    for (const auto& span : spans) rows_.push_back(static_cast<int32_t>(span.slot));
  }

  /// [sequences, …] for the kernel to overwrite; undefined when nobody wants it.
  Tensor rows(Context& context) const {
    if (slot_ == nullptr) return {};
    Shape shape = shape_;
    shape.set(0, static_cast<int64_t>(rows_.size()));
    return context.empty(shape, dtype_);
  }

  /// After the kernel ran.
  void hand_over(Context& context, Tensor& gradients) const {
    if (slot_ == nullptr) return;
    Tensor sum = context.zeros(shape_, dtype_);
    auto kernel = require_kernel(context.kernels().embedding.gather_rows, "gather_rows", context.device.type);
    kernel({.x = sum.raw(),
            .indices = rows_.data(),
            .y = gradients.raw(),
            .num_indices = static_cast<int64_t>(rows_.size()),
            .width = sum.num_elements() / shape_[0],
            .scatter_add = true,
            .dtype = dtype_},
           context.stream());
    add_grad(context, slot_, std::move(sum));
  }

 private:
  Shape shape_;
  DType dtype_ = DType::f32;
  std::shared_ptr<GradSlot> slot_;
  std::vector<int32_t> rows_;
};

}  // namespace weft
