#include "parallel/planned_communicator.h"

#include <algorithm>
#include <cstddef>

#include "parallel/call_signature.h"

namespace weft {
namespace {

class PlannedCommunicator final : public Communicator {
 public:
  PlannedCommunicator(int rank, int size, bool overlaps) : rank_(rank), size_(size), overlaps_(overlaps) {}

  std::string_view backend() const override { return "planned"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(Tensor& tensor, ReduceOp op) override { all_reduce_signature(tensor, op); }
  void all_gather(const Tensor& input, Tensor& output) override {
    all_gather_signature(input, output, size_);
    if (!input.is_on_host()) return;
    auto* to = static_cast<std::byte*>(output.raw());
    for (int rank = 0; rank < size_; ++rank) to = std::copy_n(bytes_of(input), input.bytes(), to);
  }
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    reduce_scatter_signature(input, output, op, size_);
    if (input.is_on_host()) std::copy_n(bytes_of(input), output.bytes(), static_cast<std::byte*>(output.raw()));
  }
  void broadcast(Tensor& tensor, int root) override { broadcast_signature(tensor, root, size_); }
  void barrier() override {}
  void send(const Tensor& /*tensor*/, int peer) override { check_peer(peer, rank_, size_); }
  void receive(Tensor& tensor, int peer) override {
    check_peer(peer, rank_, size_);
    tensor.fill_zero();
  }

  bool overlaps() const override { return overlaps_; }
  PendingCall start_all_reduce(Tensor tensor, ReduceOp /*op*/) override {
    return PendingCall([tensor] {});
  }
  PendingCall start_all_gather(const Tensor& input, Tensor output) override {
    return PendingCall([input, output] {});
  }
  PendingCall start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp /*op*/) override {
    return PendingCall([input, output] {});
  }

  /// As make_background_communicator asks for one.
  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/) override {
    return std::make_unique<PlannedCommunicator>(rank_, size_, size_ > 1);
  }

 private:
  static const std::byte* bytes_of(const Tensor& tensor) { return static_cast<const std::byte*>(tensor.raw()); }

  int rank_, size_;
  bool overlaps_;
};

}  // namespace

std::unique_ptr<Communicator> make_planned_communicator(int rank, int size) {
  return std::make_unique<PlannedCommunicator>(rank, size, false);
}

Mesh make_planned_mesh(int data_rank, int data, int tensor_rank, int tensor) {
  return {make_planned_communicator(data_rank * tensor + tensor_rank, data * tensor),
          make_planned_communicator(tensor_rank, tensor),
          make_planned_communicator(data_rank, data)};
}

}  // namespace weft
