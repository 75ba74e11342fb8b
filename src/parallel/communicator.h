// Collective communication between ranks. One class a backend: single, MPI, threads; one conformance test for all.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "core/tensor.h"

namespace weft {

enum class ReduceOp { sum, max, min };

/// A collective that goes on while its caller does other things. Before wait() its result may not be read, and nothing
/// it works on may be written. It keeps its tensors' memory until then, but for what Tensor::release_memory takes away.
class PendingCall {
 public:
  /// One that is done.
  PendingCall() = default;
  explicit PendingCall(std::function<void()> wait) : wait_(std::move(wait)) {}
  PendingCall(PendingCall&& other) noexcept : wait_(std::exchange(other.wait_, nullptr)) {}
  PendingCall& operator=(PendingCall&& other) noexcept {
    wait_ = std::exchange(other.wait_, nullptr);
    return *this;
  }
  PendingCall(const PendingCall&) = delete;
  PendingCall& operator=(const PendingCall&) = delete;
  ~PendingCall() = default;

  /// Returns when the result is in place (on a GPU: for what is queued next), or throws what the call failed with.
  void wait() {
    if (auto wait = std::exchange(wait_, nullptr)) wait();
  }

 private:
  std::function<void()> wait_;
};

/// Every rank of a communicator calls the same operations in the same order with tensors of the same shape and dtype.
/// Calls return when the result is in place. Counts are 64-bit. A lost peer or a mismatch throws Error(communication).
/// Element types: f32, bf16 (sums rounded once from f32), f64, i32, i64, u8 (u8 in operations that only move data).
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual std::string_view backend() const = 0;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// In place; the result is the same to the bit on every rank.
  virtual void all_reduce(Tensor& tensor, ReduceOp op) = 0;
  /// output[r] = input of rank r: output has size() times the elements of input, ordered by rank.
  virtual void all_gather(const Tensor& input, Tensor& output) = 0;
  /// output = the rank-th of size() equal parts of the reduced input.
  virtual void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) = 0;
  virtual void broadcast(Tensor& tensor, int root) = 0;
  virtual void barrier() = 0;
  virtual void send(const Tensor& tensor, int peer) = 0;
  virtual void receive(Tensor& tensor, int peer) = 0;

  /// Whether what start_… begins goes on beside what the caller does next. Elsewhere it is done when they return.
  virtual bool overlaps() const { return false; }
  /// The same operations, begun. They count where they are started: in the same order on every rank as all others.
  virtual PendingCall start_all_reduce(Tensor tensor, ReduceOp op) {
    all_reduce(tensor, op);
    return {};
  }
  virtual PendingCall start_all_gather(const Tensor& input, Tensor output) {
    all_gather(input, output);
    return {};
  }
  virtual PendingCall start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp op) {
    reduce_scatter(input, output, op);
    return {};
  }

  /// Whether groups made by split may be used by other threads at the same time.
  virtual bool allows_concurrent_groups() const { return true; }

  /// Ranks with the same color form a new communicator, ordered by key, then by rank.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
};

/// The communicator of one rank: every operation is a copy or nothing.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace weft
