// What every op is handed: where to allocate, how many threads, whether to record, and who the tensor-parallel peers
// are.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "core/random.h"
#include "core/tensor.h"
#include "kernels/kernels.h"

namespace weft {

class BlockHooks;
class Communicator;
class Tape;

struct Context {
  std::shared_ptr<Allocator> allocator;
  Device device;
  int num_threads = 1;
  /// Null: nothing is recorded (inference).
  Tape* tape = nullptr;
  /// The ranks that share this model's weights; null is a group of one.
  Communicator* tensor_parallel = nullptr;
  /// Whether the residual stream between tensor-parallel regions is shared out by tokens (sequence parallelism).
  bool sequence_parallel = false;
  /// What is done around each block of a model (autograd/block.h); null: nothing.
  BlockHooks* blocks = nullptr;
  /// Whether the outputs of norms, activations and attention are computed again in backward instead of kept
  /// (Recompute::selective; run_block sets it).
  bool recompute_selectively = false;
  /// Whether dropout drops. (Not the same as recording: a checkpointed block's first run has no tape.)
  bool training = false;
  /// Seed and step of dropout; an op adds its site.
  RandomKey random;
  /// Index of the batch's first token in the whole step's batch over all ranks: dropout's rows count from here.
  int64_t first_token = 0;
  /// Called with intermediate results by name ("hidden/3", "logits", …) when set: verification looks inside through it.
  std::function<void(std::string_view name, const Tensor& value)> observer;

  Stream stream() const { return {.device = device, .num_threads = num_threads, .workspace = allocator.get()}; }
  const KernelTable& kernels() const { return weft::kernels(device.type); }
  Tensor empty(const Shape& shape, DType dtype, MemoryTag tag = MemoryTag::activations) const {
    return Tensor::empty(allocator, shape, dtype, tag);
  }
  Tensor zeros(const Shape& shape, DType dtype, MemoryTag tag = MemoryTag::activations) const {
    return Tensor::zeros(allocator, shape, dtype, tag);
  }
  void observe(std::string_view name, const Tensor& value) const {
    if (observer) observer(name, value);
  }
};

/// A context on the CPU with an allocator of its own.
Context make_cpu_context(int num_threads);

}  // namespace weft
