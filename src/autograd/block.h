// A model's blocks as units of work: what is to be done around each (gather its weights, run it again in backward,
// reduce its gradients) is told by hooks, so that a model's forward is written once.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// What of a block's forward is not kept but computed again in backward (gradient checkpointing: Chen et al., "Training
/// deep nets with sublinear memory cost", 2016). The gradients are the same to the bit, but for what a block reads
/// several times (an encoder's states in cross-attention): there the sum has another order.
enum class Recompute : uint8_t {
  none,
  selective,  // norms and activations, which cost next to nothing; what products and attention give is kept
  block       // all but the block's input
};

/// Called by run_block. All calls are made on every rank in the same order.
class BlockHooks {
 public:
  virtual ~BlockHooks() = default;
  virtual Recompute recompute(int64_t block) const = 0;
  /// Before the block's parameters are read in a forward pass, and after.
  virtual void before_forward(Context& context, int64_t block) = 0;
  virtual void after_forward(Context& context, int64_t block) = 0;
  /// Before the first node of the block runs in backward, and after the last one.
  virtual void before_backward(Context& context, int64_t block) = 0;
  virtual void after_backward(Context& context, int64_t block) = 0;
};

/// Results from inputs; everything else that it needs it holds itself (by value, since it may run again in backward).
using BlockFunction = std::function<std::vector<Tensor>(Context& context, const std::vector<Tensor>& inputs)>;

/// Runs a block of a model between the hooks of context.blocks, as they say kept or run again in backward.
std::vector<Tensor> run_block(Context& context, int64_t block, const std::vector<Tensor>& inputs, BlockFunction body);

/// Runs the body without recording it; its backward runs it again, recorded.
std::vector<Tensor> checkpoint(Context& context, const std::vector<Tensor>& inputs, BlockFunction body);

}  // namespace weft
