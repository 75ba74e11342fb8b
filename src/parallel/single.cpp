// One rank: every collective is a copy or nothing, after the same checks as with many.
#include "parallel/call_signature.h"

namespace weft {
namespace {

void copy(const Tensor& from, Tensor& to) {
  if (from.bytes() != 0 && to.raw() != from.raw()) to.copy_from(from);
}

class SingleCommunicator final : public Communicator {
 public:
  std::string_view backend() const override { return "single"; }
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(Tensor& tensor, ReduceOp op) override { all_reduce_signature(tensor, op); }
  void all_gather(const Tensor& input, Tensor& output) override {
    all_gather_signature(input, output, 1);
    copy(input, output);
  }
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    reduce_scatter_signature(input, output, op, 1);
    copy(input, output);
  }
  void broadcast(Tensor& tensor, int root) override { broadcast_signature(tensor, root, 1); }
  void barrier() override {}
  void send(const Tensor&, int peer) override { check_peer(peer, 0, 1); }
  void receive(Tensor&, int peer) override { check_peer(peer, 0, 1); }
  std::unique_ptr<Communicator> split(int, int) override { return make_single_communicator(); }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace weft
