// Collective communication between ranks. One class a backend: single, MPI, threads; one conformance test for all.
#pragma once

#include <memory>
#include <string_view>

#include "core/tensor.h"

namespace weft {

enum class ReduceOp { sum, max, min };

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

  /// Whether groups made by split may be used by other threads at the same time.
  virtual bool allows_concurrent_groups() const { return true; }

  /// Ranks with the same color form a new communicator, ordered by key, then by rank.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
};

/// The communicator of one rank: every operation is a copy or nothing.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace weft
