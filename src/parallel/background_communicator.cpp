#include "parallel/background_communicator.h"

#include <utility>

#include "parallel/work_queue.h"

namespace weft {
namespace {

/// Makes all calls of a group on a thread of its own.
class BackgroundCommunicator final : public Communicator {
 public:
  explicit BackgroundCommunicator(std::unique_ptr<Communicator> group) : group_(std::move(group)) {}

  std::string_view backend() const override { return group_->backend(); }
  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  bool allows_concurrent_groups() const override { return group_->allows_concurrent_groups(); }
  bool overlaps() const override { return true; }

  PendingCall start_all_reduce(Tensor tensor, ReduceOp op) override {
    return start([this, tensor, op]() mutable { group_->all_reduce(tensor, op); });
  }
  PendingCall start_all_gather(const Tensor& input, Tensor output) override {
    return start([this, input, output]() mutable { group_->all_gather(input, output); });
  }
  PendingCall start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp op) override {
    return start([this, input, output, op]() mutable { group_->reduce_scatter(input, output, op); });
  }

  void all_reduce(Tensor& tensor, ReduceOp op) override { start_all_reduce(tensor, op).wait(); }
  void all_gather(const Tensor& input, Tensor& output) override { start_all_gather(input, output).wait(); }
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    start_reduce_scatter(input, output, op).wait();
  }
  void broadcast(Tensor& tensor, int root) override {
    start([&] { group_->broadcast(tensor, root); }).wait();
  }
  void barrier() override {
    start([&] { group_->barrier(); }).wait();
  }
  void send(const Tensor& tensor, int peer) override {
    start([&] { group_->send(tensor, peer); }).wait();
  }
  void receive(Tensor& tensor, int peer) override {
    start([&] { group_->receive(tensor, peer); }).wait();
  }
  std::unique_ptr<Communicator> split(int color, int key) override {
    std::unique_ptr<Communicator> part;
    start([&] { part = group_->split(color, key); }).wait();
    return part;
  }

 private:
  /// The job is shared with the handle, so that what it holds is let go of by wait(): memory does not depend on how
  /// fast the thread is.
  PendingCall start(std::function<void()> job) {
    auto shared = std::make_shared<std::function<void()>>(std::move(job));
    std::shared_future<void> done = queue_.add([shared] { (*shared)(); });
    return PendingCall([shared, done] { done.get(); });
  }

  std::unique_ptr<Communicator> group_;
  WorkQueue queue_;
};

}  // namespace

std::unique_ptr<Communicator> make_background_communicator(Communicator& ranks) {
  auto group = ranks.split(0, ranks.rank());
  if (group->size() == 1 || group->overlaps() || !ranks.allows_concurrent_groups()) return group;
  return std::make_unique<BackgroundCommunicator>(std::move(group));
}

}  // namespace weft
