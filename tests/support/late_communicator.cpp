#include "support/late_communicator.h"

#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <utility>

#include "core/error.h"

namespace weft::testing {
namespace {

/// Started calls in their order.
class Backlog {
 public:
  size_t add(std::function<void()> call) {
    calls_.push_back(std::move(call));
    return num_started_++;
  }
  void make_calls_up_to(size_t number) {
    while (!calls_.empty() && num_started_ - calls_.size() <= number) {
      auto call = std::move(calls_.front());
      calls_.pop_front();
      call();
    }
  }
  void make_all_calls() { make_calls_up_to(num_started_); }

 private:
  std::deque<std::function<void()>> calls_;
  size_t num_started_ = 0;
};

void poison(Tensor& tensor) {
  std::memset(tensor.raw(), 0xFF, tensor.bytes());
}

class LateCommunicator final : public Communicator {
 public:
  explicit LateCommunicator(std::shared_ptr<Communicator> inner) : inner_(std::move(inner)) {}

  std::string_view backend() const override { return inner_->backend(); }
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  bool overlaps() const override { return size() > 1; }

  PendingCall start_all_reduce(Tensor tensor, ReduceOp op) override {
    Tensor values = Tensor::empty(make_cpu_allocator(), tensor.shape(), tensor.dtype());
    values.copy_from(tensor);
    poison(tensor);
    return start([inner = inner_, tensor, values, op]() mutable {
      tensor.copy_from(values);
      inner->all_reduce(tensor, op);
    });
  }
  PendingCall start_all_gather(const Tensor& input, Tensor output) override {
    poison(output);
    return start([inner = inner_, input, output]() mutable { inner->all_gather(input, output); });
  }
  PendingCall start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp op) override {
    poison(output);
    return start([inner = inner_, input, output, op]() mutable { inner->reduce_scatter(input, output, op); });
  }

  void all_reduce(Tensor& tensor, ReduceOp op) override { next().all_reduce(tensor, op); }
  void all_gather(const Tensor& input, Tensor& output) override { next().all_gather(input, output); }
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    next().reduce_scatter(input, output, op);
  }
  void broadcast(Tensor& tensor, int root) override { next().broadcast(tensor, root); }
  void barrier() override { next().barrier(); }
  void send(const Tensor& tensor, int peer) override { next().send(tensor, peer); }
  void receive(Tensor& tensor, int peer) override { next().receive(tensor, peer); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<LateCommunicator>(next().split(color, key));
  }

 private:
  Communicator& next() {
    backlog_->make_all_calls();
    return *inner_;
  }
  PendingCall start(std::function<void()> call) {
    size_t number = backlog_->add(std::move(call));
    return PendingCall([backlog = backlog_, number] { backlog->make_calls_up_to(number); });
  }

  std::shared_ptr<Communicator> inner_;
  std::shared_ptr<Backlog> backlog_ = std::make_shared<Backlog>();
};

}  // namespace

std::shared_ptr<Communicator> make_late_communicator(std::shared_ptr<Communicator> inner) {
  return std::make_shared<LateCommunicator>(std::move(inner));
}

}  // namespace weft::testing
