// Reverse-mode differentiation on a flat tape. Ops with a backward record a node; backward pops nodes from the end and
// destroys each as it has run, so memory falls monotonically, nothing recurses, and every rank issues the same
// collectives in the same order both ways.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include "autograd/context.h"
#include "core/tensor.h"

namespace weft {

/// How to compute an activation again that is not kept: from inputs that are. Shared by all nodes that need it; the
/// value lives until the last of them has run.
struct Recipe {
  std::function<Tensor(Context& context)> compute;
  Tensor value;  // undefined until somebody asked
};

/// Work of backward that nothing waits for before the block's end, such as the products for weights' gradients. It is
/// put off until other ranks' part of a gradient is on its way, and done beside that.
struct PutOff {
  int64_t block = 0;  // of the tensor whose gradient that is: another block's hooks must not wait for it
  std::vector<std::function<void(Context& context)>> work;
};

/// Where the gradient of a tensor gathers. The first contribution is kept as it is, later ones are added. A tensor
/// without a slot wants no gradient, and ops spend neither time nor memory on it.
struct GradSlot {
  Tensor tensor;                           // undefined until something arrived
  MemoryTag tag = MemoryTag::activations;  // grads for parameters
  Tensor home;  // of a parameter whose gradient lies in a larger buffer: where the first contribution is written
  std::shared_ptr<Recipe> recipe;   // of an activation that is computed again rather than kept
  std::shared_ptr<PutOff> put_off;  // of a tensor whose gradient is summed over ranks
};

/// What a node keeps of an activation for its backward: the values, or, where the tensor's slot has one, their recipe.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& tensor);
  bool defined() const { return tensor_.defined() || recipe_ != nullptr; }
  /// The values, without a gradient slot.
  Tensor get(Context& context) const;

 private:
  Tensor tensor_;
  std::shared_ptr<Recipe> recipe_;
};

/// One recorded op. Holds what its backward needs and nothing else.
class Node {
 public:
  virtual ~Node() = default;
  /// The op's name, for messages and profiles.
  virtual std::string_view name() const = 0;
  /// Takes the gradients of the outputs from their slots and adds those of the inputs to theirs.
  virtual void backward(Context& context) = 0;
};

class Tape {
 public:
  void record(std::unique_ptr<Node> node) { nodes_.push_back(std::move(node)); }
  size_t size() const { return nodes_.size(); }
  /// Seeds the gradient of `loss` (one element) with `seed` and runs all nodes from last to first. The tape is empty
  /// after.
  void backward(Context& context, const Tensor& loss, double seed = 1.0);
  /// Runs all nodes with whatever gradients already lie in the slots.
  void backward(Context& context);

 private:
  std::vector<std::unique_ptr<Node>> nodes_;
};

/// Whether an op with these inputs has to record a node.
bool is_recording(const Context& context, std::initializer_list<const Tensor*> inputs);

/// Gives an op's output a slot of its own and returns it; for ops that record.
std::shared_ptr<GradSlot> attach_slot(Tensor& output);

/// Under selective recomputation: lets the nodes that are going to need `output` (which has a slot) keep `compute` in
/// its place. The function must hold tensors without slots and give the same bits.
void offer_recipe(const Context& context, Tensor& output, std::function<Tensor(Context& context)> compute);

/// Takes what arrived for an output; undefined when nothing did.
Tensor take_grad(const std::shared_ptr<GradSlot>& slot);

/// Adds a gradient to a slot: moves it in if it is the first, else sums. Null slots are ignored.
void add_grad(Context& context, const std::shared_ptr<GradSlot>& slot, Tensor grad);

/// For kernels that accumulate themselves (weights): the slot's tensor, allocated with `shape` and `dtype` at first
/// touch, and whether it already holds something to add to.
struct GradTarget {
  Tensor tensor;
  bool accumulate;
};
GradTarget grad_target(Context& context, GradSlot& slot, const Shape& shape, DType dtype);

/// A copy of other memory, rounded where `dtype` is narrower.
Tensor copy_of(Context& context, const Tensor& x, DType dtype);

/// Gradients of parameters are f32, of f64 parameters f64.
inline DType parameter_grad_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

}  // namespace weft
