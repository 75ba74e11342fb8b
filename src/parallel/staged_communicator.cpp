#include "parallel/staged_communicator.h"

#include <string>

#include "core/error.h"
#include "parallel/call_signature.h"

namespace weft {
namespace {

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(std::shared_ptr<Communicator> inner, std::shared_ptr<Allocator> host)
      : inner_(std::move(inner)), host_(std::move(host)), backend_("staged " + std::string(inner_->backend())) {}

  std::string_view backend() const override { return backend_; }
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  /// A copy waits for the whole stream, so that a second thread would overlap nothing.
  bool allows_concurrent_groups() const override { return false; }

  void all_reduce(Tensor& tensor, ReduceOp op) override {
    all_reduce_signature(tensor, op);
    Tensor staged = read(tensor);
    inner_->all_reduce(staged, op);
    write(staged, tensor);
  }

  void all_gather(const Tensor& input, Tensor& output) override {
    all_gather_signature(input, output, size());
    const Tensor staged_input = read(input);
    Tensor staged_output = space_for(output);
    inner_->all_gather(staged_input, staged_output);
    write(staged_output, output);
  }

  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    reduce_scatter_signature(input, output, op, size());
    const Tensor staged_input = read(input);
    Tensor staged_output = space_for(output);
    inner_->reduce_scatter(staged_input, staged_output, op);
    write(staged_output, output);
  }

  void broadcast(Tensor& tensor, int root) override {
    broadcast_signature(tensor, root, size());
    Tensor staged = rank() == root ? read(tensor) : space_for(tensor);
    inner_->broadcast(staged, root);
    if (rank() != root) write(staged, tensor);
  }

  void barrier() override { inner_->barrier(); }

  void send(const Tensor& tensor, int peer) override {
    check_peer(peer, rank(), size());
    send_signature(tensor);
    inner_->send(read(tensor), peer);
  }

  void receive(Tensor& tensor, int peer) override {
    check_peer(peer, rank(), size());
    send_signature(tensor);
    Tensor staged = space_for(tensor);
    inner_->receive(staged, peer);
    write(staged, tensor);
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<StagedCommunicator>(inner_->split(color, key), host_);
  }

 private:
  /// The tensor itself if the host can read it; else memory for its elements there. The allocator keeps freed blocks of
  /// this kind for the next call.
  Tensor space_for(const Tensor& tensor) const {
    return tensor.is_on_host() ? tensor : Tensor::empty(host_, tensor.shape(), tensor.dtype(), MemoryTag::comm);
  }

  Tensor read(const Tensor& tensor) const {
    Tensor staged = space_for(tensor);
    if (!tensor.is_on_host()) tensor.copy_to_host(staged.raw());
    return staged;
  }

  static void write(const Tensor& staged, Tensor& tensor) {
    if (!tensor.is_on_host()) tensor.copy_from_host(staged.raw());
  }

  std::shared_ptr<Communicator> inner_;
  std::shared_ptr<Allocator> host_;
  std::string backend_;
};

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(std::shared_ptr<Communicator> inner) {
  WEFT_ASSERT(inner != nullptr);
  return std::make_unique<StagedCommunicator>(std::move(inner), make_cpu_allocator());
}

}  // namespace weft
