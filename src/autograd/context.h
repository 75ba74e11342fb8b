// What every op is handed: where to allocate, how many threads, whether to record, and who the tensor-parallel peers
// are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "core/random.h"
#include "core/tensor.h"
#include "kernels/kernels.h"

namespace weft {

/// The block number of what belongs to no block: embedding, final norm, head.
inline constexpr int64_t kOuterBlock = -1;

class BlockHooks;
class Communicator;
class Tape;

struct Context {
  std::shared_ptr<Allocator> allocator;
  /// Host memory, for what the host computes with: losses, statistics, what is sent to other ranks.
  std::shared_ptr<Allocator> host;
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
  /// The block that is running.
  int64_t block = kOuterBlock;
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
  /// For the few ops that also take tensors in host memory (losses): what runs where the tensor lies.
  const KernelTable& kernels_for(const Tensor& tensor) const { return weft::kernels(tensor.device().type); }
  Stream stream_for(const Tensor& tensor) const {
    if (!tensor.is_on_host()) return stream();
    return {.device = {}, .num_threads = num_threads, .workspace = host.get()};
  }
  Tensor empty_like(const Tensor& tensor, DType dtype) const {
    return Tensor::empty(tensor.is_on_host() ? host : allocator, tensor.shape(), dtype);
  }
  Tensor empty(const Shape& shape, DType dtype, MemoryTag tag = MemoryTag::activations) const {
    return Tensor::empty(allocator, shape, dtype, tag);
  }
  Tensor zeros(const Shape& shape, DType dtype, MemoryTag tag = MemoryTag::activations) const {
    return Tensor::zeros(allocator, shape, dtype, tag);
  }
  Tensor host_empty(const Shape& shape, DType dtype, MemoryTag tag = MemoryTag::activations) const {
    return Tensor::empty(host, shape, dtype, tag);
  }
  Tensor host_zeros(const Shape& shape, DType dtype, MemoryTag tag = MemoryTag::activations) const {
    return Tensor::zeros(host, shape, dtype, tag);
  }
  /// The same tensor if it is in host memory, else a copy there.
  Tensor to_host(const Tensor& tensor) const {
    if (tensor.is_on_host()) return tensor;
    Tensor copy = host_empty(tensor.shape(), tensor.dtype());
    tensor.copy_to_host(copy.raw());
    return copy;
  }
  void observe(std::string_view name, const Tensor& value) const {
    if (observer) observer(name, value);
  }
};

/// A context on the CPU with an allocator of its own.
Context make_cpu_context(int num_threads);

/// A context on whatever device `allocator` is of.
Context make_context(std::shared_ptr<Allocator> allocator, int num_threads);

}  // namespace weft
