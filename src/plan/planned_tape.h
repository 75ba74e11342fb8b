// Automatic differentiation without numbers: tensors are shapes that hold memory, nodes keep what the nodes of
// src/autograd and src/ops keep and for as long, so that a pass over a planned tape takes and returns memory in the
// order of a real one. What differs from the real ops makes tests/plan/training_plan_test.cpp fail.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "autograd/block.h"
#include "core/dtype.h"
#include "plan/memory_ledger.h"

namespace weft {

class PlannedTape;
class PlannedBlockHooks;

/// The fields of Context that decide what is allocated.
struct PlanContext {
  MemoryLedger* ledger = nullptr;
  DType dtype = DType::bf16;
  int num_threads = 1;
  int tensor_parallel = 1;  // ranks
  bool sequence_parallel = false;
  bool recompute_selectively = false;
  PlannedTape* tape = nullptr;
  PlannedBlockHooks* blocks = nullptr;

  PlannedMemory empty(int64_t bytes, MemoryTag tag = MemoryTag::activations) const { return {*ledger, tag, bytes}; }
  /// Scratch that is let go at once.
  void touch(int64_t bytes) const { empty(bytes, MemoryTag::workspace); }
};

/// As GradSlot: an activation's gradient, and how to compute the activation again.
struct PlannedRecipe {
  std::function<PlannedMemory(PlanContext& context)> compute;
  PlannedMemory value;
};
struct PlannedSlot {
  PlannedMemory grad;
  std::shared_ptr<PlannedRecipe> recipe;
};

/// [rows, columns] in the context's dtype.
struct PlannedTensor {
  int64_t rows = 0, columns = 0;
  PlannedMemory memory;
  std::shared_ptr<PlannedSlot> slot;

  bool wants_grad() const { return slot != nullptr; }
  PlannedTensor detach() const { return {rows, columns, memory, nullptr}; }
};

/// As Saved: the values or their recipe.
class PlannedSaved {
 public:
  PlannedSaved() = default;
  explicit PlannedSaved(const PlannedTensor& tensor);
  PlannedMemory get(PlanContext& context) const;

 private:
  PlannedMemory memory_;
  std::shared_ptr<PlannedRecipe> recipe_;
};

class PlannedTape {
 public:
  using Node = std::function<void(PlanContext& context)>;
  void record(Node backward) { nodes_.push_back(std::move(backward)); }
  /// From last to first, each let go as it has run.
  void backward(PlanContext& context);

 private:
  std::vector<Node> nodes_;
};

PlannedTensor planned_empty(const PlanContext& context, int64_t rows, int64_t columns);
std::shared_ptr<PlannedSlot> attach_slot(PlannedTensor& output);
void offer_recipe(const PlanContext& context,
                  PlannedTensor& output,
                  std::function<PlannedMemory(PlanContext& context)> compute);
PlannedMemory take_grad(const std::shared_ptr<PlannedSlot>& slot);
void add_grad(const std::shared_ptr<PlannedSlot>& slot, PlannedMemory grad);
/// As grad_target of an activation.
void open_grad(const PlanContext& context, PlannedSlot& slot, int64_t bytes);

/// As BlockHooks, run_block and checkpoint.
class PlannedBlockHooks {
 public:
  virtual ~PlannedBlockHooks() = default;
  virtual Recompute recompute(int64_t block) const = 0;
  virtual void before_forward(PlanContext& context, int64_t block) = 0;
  virtual void after_forward(PlanContext& context, int64_t block) = 0;
  virtual void before_backward(PlanContext& context, int64_t block) = 0;
  virtual void after_backward(PlanContext& context, int64_t block) = 0;
};

using PlannedBlockFunction =
    std::function<std::vector<PlannedTensor>(PlanContext& context, const std::vector<PlannedTensor>& inputs)>;
std::vector<PlannedTensor> run_block(PlanContext& context,
                                     int64_t block,
                                     const std::vector<PlannedTensor>& inputs,
                                     PlannedBlockFunction body);

}  // namespace weft
