#include "autograd/block.h"

#include <utility>

#include "autograd/tape.h"

namespace weft {
namespace {

/// Runs a hook when backward comes by.
class BlockEdgeNode final : public Node {
 public:
  using Hook = void (BlockHooks::*)(Context&, int64_t);
  BlockEdgeNode(std::string_view name, Hook hook, int64_t block) : name_(name), hook_(hook), block_(block) {}
  std::string_view name() const override { return name_; }
  void backward(Context& context) override { (context.blocks->*hook_)(context, block_); }

 private:
  std::string_view name_;
  Hook hook_;
  int64_t block_;
};

/// Holds a block's inputs only; backward runs the block again, recorded on a tape of its own, and that tape back.
class CheckpointNode final : public Node {
 public:
  CheckpointNode(std::vector<Tensor> inputs,
                 BlockFunction body,
                 std::vector<std::shared_ptr<GradSlot>> outputs,
                 Context at)
      : inputs_(std::move(inputs)), body_(std::move(body)), outputs_(std::move(outputs)), at_(std::move(at)) {}
  std::string_view name() const override { return "checkpoint"; }

  void backward(Context& context) override {
    Context again = at_;
    Tape tape;
    again.tape = &tape;
    std::vector<Tensor> inputs = with_own_slots();
    std::vector<Tensor> results = body_(again, inputs);
    for (size_t i = 0; i < results.size(); ++i) {
      Tensor grad = take_grad(outputs_[i]);
      if (grad && results[i].wants_grad()) results[i].grad_slot()->tensor = std::move(grad);
    }
    results.clear();
    tape.backward(again);
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (inputs[i].wants_grad()) add_grad(context, inputs_[i].grad_slot(), take_grad(inputs[i].grad_slot()));
    }
  }

 private:
  std::vector<Tensor> with_own_slots() const {
    std::vector<Tensor> inputs;
    for (const Tensor& input : inputs_) {
      inputs.push_back(input.detach());
      if (input.wants_grad()) attach_slot(inputs.back());
    }
    return inputs;
  }

  std::vector<Tensor> inputs_;
  BlockFunction body_;
  std::vector<std::shared_ptr<GradSlot>> outputs_;
  Context at_;
};

std::vector<Tensor> run_body(
    const Context& context, int64_t block, Recompute recompute, const std::vector<Tensor>& inputs, BlockFunction body) {
  Context marked = context;
  marked.block = block;
  if (recompute == Recompute::block) return checkpoint(marked, inputs, std::move(body));
  marked.recompute_selectively = recompute == Recompute::selective;
  return body(marked, inputs);
}

}  // namespace

std::vector<Tensor> checkpoint(Context& context, const std::vector<Tensor>& inputs, BlockFunction body) {
  if (context.tape == nullptr) return body(context, inputs);
  Context silent = context;
  silent.tape = nullptr;
  std::vector<Tensor> results = body(silent, inputs);
  silent.observer = nullptr;
  std::vector<std::shared_ptr<GradSlot>> outputs;
  for (Tensor& result : results) {
    result = result.detach();
    outputs.push_back(attach_slot(result));
  }
  context.tape->record(
      std::make_unique<CheckpointNode>(inputs, std::move(body), std::move(outputs), std::move(silent)));
  return results;
}

std::vector<Tensor> run_block(Context& context, int64_t block, const std::vector<Tensor>& inputs, BlockFunction body) {
  BlockHooks* hooks = context.blocks;
  if (hooks == nullptr) return body(context, inputs);
  hooks->before_forward(context, block);
  if (context.tape != nullptr) {
    context.tape->record(std::make_unique<BlockEdgeNode>("block_begin", &BlockHooks::after_backward, block));
  }
  std::vector<Tensor> results = run_body(context, block, hooks->recompute(block), inputs, std::move(body));
  if (context.tape != nullptr) {
    context.tape->record(std::make_unique<BlockEdgeNode>("block_end", &BlockHooks::before_backward, block));
  }
  hooks->after_forward(context, block);
  return results;
}

}  // namespace weft
