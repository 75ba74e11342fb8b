#include "parallel/call_signature.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "parallel/reduction.h"

namespace weft {
namespace {

constexpr std::array<const char*, 7> kCallNames = {
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier", "split", "send"};
constexpr std::array<const char*, 3> kOpNames = {"sum", "max", "min"};

void check_defined(CallKind kind, const Tensor& tensor) {
  if (tensor.defined() && tensor.layout() == Layout::row_major) return;
  fail(
      ExitCode::communication, "{} of a tensor that is {}", call_name(kind), tensor.defined() ? "packed" : "undefined");
}

void check_pair(CallKind kind, const Tensor& part, const Tensor& whole, int size) {
  check_defined(kind, part);
  check_defined(kind, whole);
  if (part.dtype() == whole.dtype() && part.num_elements() * size == whole.num_elements()) return;
  fail(ExitCode::communication,
       "{} over {} ranks of {} {} with {} {}: expected the same dtype and {} times the elements",
       call_name(kind),
       size,
       dtype_name(part.dtype()),
       to_string(part.shape()),
       dtype_name(whole.dtype()),
       to_string(whole.shape()),
       size);
}

std::string describe(const CallSignature& call) {
  std::string name = call_name(call.kind);
  if (call.kind == CallKind::barrier || call.kind == CallKind::split) return name;
  if (call.kind == CallKind::all_reduce || call.kind == CallKind::reduce_scatter) {
    name += fmt::format("({})", kOpNames[static_cast<size_t>(call.op)]);
  }
  if (call.kind == CallKind::broadcast) name += fmt::format("(root {})", call.root);
  return fmt::format("{} of {} {}", name, dtype_name(call.dtype), to_string(call.shape));
}

}  // namespace

const char* call_name(CallKind kind) {
  return kCallNames[static_cast<size_t>(kind)];
}

CallSignature all_reduce_signature(const Tensor& tensor, ReduceOp op) {
  check_defined(CallKind::all_reduce, tensor);
  check_reducible(tensor.dtype());
  return {.kind = CallKind::all_reduce, .op = op, .dtype = tensor.dtype(), .shape = tensor.shape()};
}

CallSignature all_gather_signature(const Tensor& input, const Tensor& output, int size) {
  check_pair(CallKind::all_gather, input, output, size);
  return {.kind = CallKind::all_gather, .dtype = input.dtype(), .shape = input.shape()};
}

CallSignature reduce_scatter_signature(const Tensor& input, const Tensor& output, ReduceOp op, int size) {
  check_pair(CallKind::reduce_scatter, output, input, size);
  check_reducible(input.dtype());
  return {.kind = CallKind::reduce_scatter, .op = op, .dtype = input.dtype(), .shape = input.shape()};
}

CallSignature broadcast_signature(const Tensor& tensor, int root, int size) {
  check_defined(CallKind::broadcast, tensor);
  if (root < 0 || root >= size) fail(ExitCode::communication, "broadcast from rank {} of {}", root, size);
  return {.kind = CallKind::broadcast, .dtype = tensor.dtype(), .root = root, .shape = tensor.shape()};
}

CallSignature send_signature(const Tensor& tensor) {
  check_defined(CallKind::send, tensor);
  return {.kind = CallKind::send, .dtype = tensor.dtype(), .shape = tensor.shape()};
}

void check_peer(int peer, int rank, int size) {
  if (peer >= 0 && peer < size && peer != rank) return;
  fail(ExitCode::communication, "rank {} of {} cannot send to or receive from rank {}", rank, size, peer);
}

std::string describe_mismatch(int rank, const CallSignature& call, int other_rank, const CallSignature& other_call) {
  return fmt::format(
      "ranks disagree: rank {} calls {}, rank {} calls {}", rank, describe(call), other_rank, describe(other_call));
}

}  // namespace weft
