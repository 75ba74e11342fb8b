#include "autograd/tape.h"

#include "core/error.h"

namespace weft {

Context make_cpu_context(int num_threads) {
  return make_context(make_cpu_allocator(), num_threads);
}

Context make_context(std::shared_ptr<Allocator> allocator, int num_threads) {
  Context context;
  context.device = allocator->device();
  context.host = context.device.type == DeviceType::cpu ? allocator : allocator->make_host_allocator();
  context.allocator = std::move(allocator);
  context.num_threads = num_threads;
  return context;
}

void Tape::backward(Context& context, const Tensor& loss, double seed) {
  WEFT_ASSERT(loss.num_elements() == 1 && loss.wants_grad(), "backward from {}", to_string(loss.shape()));
  Tensor grad = context.empty_like(loss, loss.dtype());
  grad.set_values(&seed, DType::f64);
  add_grad(context, loss.grad_slot(), std::move(grad));
  backward(context);
}

void Tape::backward(Context& context) {
  Tape* outer = context.tape;
  context.tape = nullptr;
  while (!nodes_.empty()) {
    std::unique_ptr<Node> node = std::move(nodes_.back());
    nodes_.pop_back();
    node->backward(context);
  }
  context.tape = outer;
}

bool is_recording(const Context& context, std::initializer_list<const Tensor*> inputs) {
  if (context.tape == nullptr) return false;
  for (const Tensor* input : inputs) {
    if (input != nullptr && input->wants_grad()) return true;
  }
  return false;
}

std::shared_ptr<GradSlot> attach_slot(Tensor& output) {
  output.set_grad_slot(std::make_shared<GradSlot>());
  return output.grad_slot();
}

Saved::Saved(const Tensor& tensor) {
  if (tensor.wants_grad() && tensor.grad_slot()->recipe != nullptr) {
    recipe_ = tensor.grad_slot()->recipe;
  } else {
    tensor_ = tensor.detach();
  }
}

Tensor Saved::get(Context& context) const {
  if (recipe_ == nullptr) return tensor_;
  if (!recipe_->value) recipe_->value = recipe_->compute(context);
  return recipe_->value;
}

void offer_recipe(const Context& context, Tensor& output, std::function<Tensor(Context& context)> compute) {
  if (!context.recompute_selectively) return;
  output.grad_slot()->recipe = std::make_shared<Recipe>(Recipe{.compute = std::move(compute), .value = Tensor()});
}

Tensor take_grad(const std::shared_ptr<GradSlot>& slot) {
  Tensor grad = std::move(slot->tensor);
  slot->tensor = Tensor();
  return grad;
}

void add_grad(Context& context, const std::shared_ptr<GradSlot>& slot, Tensor grad) {
  if (slot == nullptr || !grad) return;
  if (!slot->tensor && !slot->home) {
    slot->tensor = std::move(grad);
    return;
  }
  bool is_first = !slot->tensor;
  if (is_first) slot->tensor = slot->home;
  Tensor& sum = slot->tensor;
  auto axpby = require_kernel(context.kernels_for(sum).elementwise.axpby, "add", context.device.type);
  axpby({.x = grad.raw(),
         .y_in = is_first ? nullptr : sum.raw(),
         .y = sum.raw(),
         .count = sum.num_elements(),
         .a = 1,
         .b = is_first ? 0.0 : 1.0,
         .x_dtype = grad.dtype(),
         .y_dtype = sum.dtype()},
        context.stream_for(sum));
}

GradTarget grad_target(Context& context, GradSlot& slot, const Shape& shape, DType dtype) {
  bool accumulate = slot.tensor.defined();
  if (!accumulate) slot.tensor = slot.home ? slot.home : context.empty(shape, dtype, slot.tag);
  return {slot.tensor, accumulate};
}

Tensor copy_of(Context& context, const Tensor& x, DType dtype) {
  Tensor copy = context.empty_like(x, dtype);
  auto axpby = require_kernel(context.kernels_for(x).elementwise.axpby, "copy", context.device.type);
  axpby({.x = x.raw(), .y = copy.raw(), .count = x.num_elements(), .x_dtype = x.dtype(), .y_dtype = dtype},
        context.stream_for(x));
  return copy;
}

}  // namespace weft
