// What a rank asks of a collective: compared between ranks, so that a mismatch is an error and not a hang or garbage.
#pragma once

#include <string>

#include "parallel/communicator.h"

namespace weft {

enum class CallKind : uint8_t { all_reduce, all_gather, reduce_scatter, broadcast, barrier, split, send };

const char* call_name(CallKind kind);

/// Trivially copyable: it travels through shared memory and MPI as bytes.
struct CallSignature {
  CallKind kind = CallKind::barrier;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::u8;
  int root = 0;
  Shape shape{};
  bool operator==(const CallSignature&) const = default;
};

/// Signatures of the operations that take tensors. Each checks this rank's own arguments and throws
/// Error(communication).
CallSignature all_reduce_signature(const Tensor& tensor, ReduceOp op);
CallSignature all_gather_signature(const Tensor& input, const Tensor& output, int size);
CallSignature reduce_scatter_signature(const Tensor& input, const Tensor& output, ReduceOp op, int size);
CallSignature broadcast_signature(const Tensor& tensor, int root, int size);
CallSignature send_signature(const Tensor& tensor);

/// Throws Error(communication) unless `peer` is another rank of `size`.
void check_peer(int peer, int rank, int size);

/// "ranks disagree: rank 0 calls all_reduce(sum) of f32 [4, 576], rank 2 calls barrier"
std::string describe_mismatch(int rank, const CallSignature& call, int other_rank, const CallSignature& other_call);

}  // namespace weft
