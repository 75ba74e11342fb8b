#include "plan/planned_tape.h"

#include <utility>

namespace weft {
namespace {

/// As CheckpointNode.
class PlannedCheckpoint {
 public:
  PlannedCheckpoint(std::vector<PlannedTensor> inputs,
                    PlannedBlockFunction body,
                    std::vector<std::shared_ptr<PlannedSlot>> outputs,
                    PlanContext at)
      : inputs_(std::move(inputs)), body_(std::move(body)), outputs_(std::move(outputs)), at_(at) {}

  void operator()(PlanContext& /*context*/) const {
    PlanContext again = at_;
    PlannedTape tape;
    again.tape = &tape;
    std::vector<PlannedTensor> inputs;
    for (const PlannedTensor& input : inputs_) {
      inputs.push_back(input.detach());
      if (input.wants_grad()) attach_slot(inputs.back());
    }
    std::vector<PlannedTensor> results = body_(again, inputs);
    for (size_t i = 0; i < results.size(); ++i) {
      PlannedMemory grad = take_grad(outputs_[i]);
      if (grad && results[i].wants_grad()) results[i].slot->grad = std::move(grad);
    }
    results.clear();
    tape.backward(again);
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].wants_grad()) add_grad(inputs_[i].slot, take_grad(inputs[i].slot));
    }
  }

 private:
  std::vector<PlannedTensor> inputs_;
  PlannedBlockFunction body_;
  std::vector<std::shared_ptr<PlannedSlot>> outputs_;
  PlanContext at_;
};

std::vector<PlannedTensor> checkpoint(PlanContext& context,
                                      const std::vector<PlannedTensor>& inputs,
                                      PlannedBlockFunction body) {
  if (context.tape == nullptr) return body(context, inputs);
  PlanContext silent = context;
  silent.tape = nullptr;
  std::vector<PlannedTensor> results = body(silent, inputs);
  std::vector<std::shared_ptr<PlannedSlot>> outputs;
  for (PlannedTensor& result : results) {
    result = result.detach();
    outputs.push_back(attach_slot(result));
  }
  context.tape->record(PlannedCheckpoint(inputs, std::move(body), std::move(outputs), silent));
  return results;
}

std::vector<PlannedTensor> run_body(PlanContext& context,
                                    Recompute recompute,
                                    const std::vector<PlannedTensor>& inputs,
                                    PlannedBlockFunction body) {
  if (recompute == Recompute::block) return checkpoint(context, inputs, std::move(body));
  PlanContext marked = context;
  marked.recompute_selectively = recompute == Recompute::selective;
  return body(marked, inputs);
}

}  // namespace

PlannedSaved::PlannedSaved(const PlannedTensor& tensor) {
  if (tensor.wants_grad() && tensor.slot->recipe != nullptr) {
    recipe_ = tensor.slot->recipe;
  } else {
    memory_ = tensor.memory;
  }
}

PlannedMemory PlannedSaved::get(PlanContext& context) const {
  if (recipe_ == nullptr) return memory_;
  if (!recipe_->value) recipe_->value = recipe_->compute(context);
  return recipe_->value;
}

void PlannedTape::backward(PlanContext& context) {
  PlannedTape* outer = std::exchange(context.tape, nullptr);
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    node(context);
  }
  context.tape = outer;
}

PlannedTensor planned_empty(const PlanContext& context, int64_t rows, int64_t columns) {
  int64_t bytes = rows * columns * static_cast<int64_t>(dtype_bytes(context.dtype));
  return {rows, columns, context.empty(bytes), nullptr};
}

std::shared_ptr<PlannedSlot> attach_slot(PlannedTensor& output) {
  output.slot = std::make_shared<PlannedSlot>();
  return output.slot;
}

void offer_recipe(const PlanContext& context,
                  PlannedTensor& output,
                  std::function<PlannedMemory(PlanContext& context)> compute) {
  if (!context.recompute_selectively) return;
  output.slot->recipe = std::make_shared<PlannedRecipe>(PlannedRecipe{.compute = std::move(compute), .value = {}});
}

PlannedMemory take_grad(const std::shared_ptr<PlannedSlot>& slot) {
  return std::exchange(slot->grad, {});
}

void add_grad(const std::shared_ptr<PlannedSlot>& slot, PlannedMemory grad) {
  if (slot == nullptr || !grad || slot->grad) return;
  slot->grad = std::move(grad);
}

void open_grad(const PlanContext& context, PlannedSlot& slot, int64_t bytes) {
  if (!slot.grad) slot.grad = context.empty(bytes);
}

std::vector<PlannedTensor> run_block(PlanContext& context,
                                     int64_t block,
                                     const std::vector<PlannedTensor>& inputs,
                                     PlannedBlockFunction body) {
  PlannedBlockHooks* hooks = context.blocks;
  hooks->before_forward(context, block);
  if (context.tape != nullptr) {
    context.tape->record([hooks, block](PlanContext& running) { hooks->after_backward(running, block); });
  }
  std::vector<PlannedTensor> results = run_body(context, hooks->recompute(block), inputs, std::move(body));
  if (context.tape != nullptr) {
    context.tape->record([hooks, block](PlanContext& running) { hooks->before_backward(running, block); });
  }
  hooks->after_forward(context, block);
  return results;
}

}  // namespace weft
