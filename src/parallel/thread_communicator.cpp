#include "parallel/thread_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "core/error.h"
#include "parallel/call_signature.h"
#include "parallel/reduction.h"

namespace weft {
namespace {

using Bytes = std::vector<std::byte>;

/// What a rank shows the others during one call.
struct Call {
  CallSignature signature;
  const void* input = nullptr;
  void* output = nullptr;
  int color = 0;
  int key = 0;
};

struct Message {
  CallSignature signature;
  Bytes bytes;
};

/// The state that the ranks share. A call is two meetings: after the first, every rank's Call may be read and its
/// buffers used; after the second, nobody looks at them any more.
class Group {
 public:
  explicit Group(int size) : size_(size), calls_(static_cast<size_t>(size)), gone_(static_cast<size_t>(size), false) {}

  int size() const { return size_; }
  const Call& call(int rank) const { return calls_[static_cast<size_t>(rank)]; }

  void open(int rank, const Call& call) {
    std::unique_lock lock(mutex_);
    calls_[static_cast<size_t>(rank)] = call;
    meet(lock, [this] { compare_calls(); });
  }

  void close() {
    std::unique_lock lock(mutex_);
    meet(lock, [] {});
  }

  void leave(int rank) {
    std::unique_lock lock(mutex_);
    gone_[static_cast<size_t>(rank)] = true;
    changed_.notify_all();
  }

  void send(int from, int to, Message message) {
    std::unique_lock lock(mutex_);
    throw_if_broken();
    mailboxes_[{from, to}].push_back(std::move(message));
    changed_.notify_all();
  }

  Message receive(int from, int to) {
    std::unique_lock lock(mutex_);
    std::deque<Message>& mailbox = mailboxes_[{from, to}];
    changed_.wait(lock, [&] { return !mailbox.empty() || is_broken() || gone_[static_cast<size_t>(from)]; });
    throw_if_broken();
    if (mailbox.empty()) break_with(describe_gone(from));
    Message message = std::move(mailbox.front());
    mailbox.pop_front();
    return message;
  }

  [[noreturn]] void mismatch(int rank, const CallSignature& call, int other_rank, const CallSignature& other_call) {
    std::unique_lock lock(mutex_);
    break_with(describe_mismatch(rank, call, other_rank, other_call));
  }

  /// The group of the ranks with this color; made by whichever asks first.
  std::shared_ptr<Group> subgroup(int color, int size) {
    std::unique_lock lock(mutex_);
    std::shared_ptr<Group>& group = subgroups_[color];
    if (!group) group = std::make_shared<Group>(size);
    return group;
  }

  void forget_subgroup(int color) {
    std::unique_lock lock(mutex_);
    subgroups_.erase(color);
  }

 private:
  bool is_broken() const { return !error_.empty(); }
  void throw_if_broken() const {
    if (is_broken()) throw Error(ExitCode::communication, error_);
  }
  [[noreturn]] void break_with(const std::string& error) {
    if (!is_broken()) error_ = error;
    changed_.notify_all();
    throw Error(ExitCode::communication, error_);
  }
  static std::string describe_gone(int rank) { return fmt::format("rank {} is gone", rank); }

  void compare_calls() {
    for (int rank = 1; rank < size_; ++rank) {
      if (call(rank).signature == call(0).signature) continue;
      break_with(describe_mismatch(0, call(0).signature, rank, call(rank).signature));
    }
  }

  template <typename LastToArrive>
  void meet(std::unique_lock<std::mutex>& lock, LastToArrive last_to_arrive) {
    throw_if_broken();
    const int64_t meeting = num_meetings_;
    if (++num_arrived_ == size_) {
      last_to_arrive();
      num_arrived_ = 0;
      ++num_meetings_;
      changed_.notify_all();
      return;
    }
    auto gone = gone_.end();
    changed_.wait(lock, [&] {
      gone = std::find(gone_.begin(), gone_.end(), true);
      return num_meetings_ != meeting || is_broken() || gone != gone_.end();
    });
    if (num_meetings_ != meeting) return;
    throw_if_broken();
    break_with(describe_gone(static_cast<int>(gone - gone_.begin())));
  }

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Call> calls_;
  std::vector<bool> gone_;
  int num_arrived_ = 0;
  int64_t num_meetings_ = 0;
  std::string error_;
  std::map<std::pair<int, int>, std::deque<Message>> mailboxes_;
  std::map<int, std::shared_ptr<Group>> subgroups_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank) : group_(std::move(group)), rank_(rank) {}
  ~ThreadCommunicator() override { group_->leave(rank_); }

  std::string_view backend() const override { return "threads"; }
  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  void all_reduce(Tensor& tensor, ReduceOp op) override {
    open({.signature = all_reduce_signature(tensor, op), .output = tensor.raw()});
    // Each rank reduces its part of the elements and writes it to all: nobody else reads or writes that part.
    const int64_t begin = part_begin(tensor.num_elements(), rank_);
    const int64_t count = part_begin(tensor.num_elements(), rank_ + 1) - begin;
    const size_t offset = static_cast<size_t>(begin) * dtype_bytes(tensor.dtype());
    const size_t bytes = static_cast<size_t>(count) * dtype_bytes(tensor.dtype());
    std::vector<const void*> parts(static_cast<size_t>(size()));
    for (int other = 0; other < size(); ++other) parts[static_cast<size_t>(other)] = output_of(other) + offset;
    if (count > 0) reduce_parts(tensor.dtype(), op, parts, output_of(rank_) + offset, count);
    for (int other = 0; other < size(); ++other) {
      if (other != rank_ && bytes > 0) std::memcpy(output_of(other) + offset, output_of(rank_) + offset, bytes);
    }
    group_->close();
  }

  void all_gather(const Tensor& input, Tensor& output) override {
    open({.signature = all_gather_signature(input, output, size()), .input = input.raw()});
    for (int other = 0; other < size() && input.bytes() > 0; ++other) {
      std::memmove(static_cast<std::byte*>(output.raw()) + static_cast<size_t>(other) * input.bytes(),
                   group_->call(other).input,
                   input.bytes());
    }
    group_->close();
  }

  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override {
    open({.signature = reduce_scatter_signature(input, output, op, size()), .input = input.raw()});
    std::vector<const void*> parts(static_cast<size_t>(size()));
    const size_t offset = static_cast<size_t>(rank_) * output.bytes();
    for (int other = 0; other < size(); ++other) {
      parts[static_cast<size_t>(other)] = static_cast<const std::byte*>(group_->call(other).input) + offset;
    }
    if (output.num_elements() > 0) reduce_parts(output.dtype(), op, parts, output.raw(), output.num_elements());
    group_->close();
  }

  void broadcast(Tensor& tensor, int root) override {
    open({.signature = broadcast_signature(tensor, root, size()), .input = tensor.raw()});
    if (rank_ != root && tensor.bytes() > 0) std::memcpy(tensor.raw(), group_->call(root).input, tensor.bytes());
    group_->close();
  }

  void barrier() override { open({.signature = {.kind = CallKind::barrier}}), group_->close(); }

  void send(const Tensor& tensor, int peer) override {
    check_peer(peer, rank_, size());
    Message message{.signature = send_signature(tensor), .bytes = Bytes(tensor.bytes())};
    if (tensor.bytes() > 0) std::memcpy(message.bytes.data(), tensor.raw(), tensor.bytes());
    group_->send(rank_, peer, std::move(message));
  }

  void receive(Tensor& tensor, int peer) override {
    check_peer(peer, rank_, size());
    const CallSignature expected = send_signature(tensor);
    Message message = group_->receive(peer, rank_);
    if (message.signature != expected) group_->mismatch(peer, message.signature, rank_, expected);
    if (tensor.bytes() > 0) std::memcpy(tensor.raw(), message.bytes.data(), tensor.bytes());
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    open({.signature = {.kind = CallKind::split}, .color = color, .key = key});
    std::vector<std::pair<int, int>> members;  // key, rank
    for (int other = 0; other < size(); ++other) {
      if (group_->call(other).color == color) members.emplace_back(group_->call(other).key, other);
    }
    std::sort(members.begin(), members.end());
    const auto mine = std::find(members.begin(), members.end(), std::pair(key, rank_));
    auto subgroup = group_->subgroup(color, static_cast<int>(members.size()));
    group_->close();
    group_->forget_subgroup(color);
    return std::make_unique<ThreadCommunicator>(std::move(subgroup), static_cast<int>(mine - members.begin()));
  }

 private:
  void open(const Call& call) { group_->open(rank_, call); }
  std::byte* output_of(int other) const { return static_cast<std::byte*>(group_->call(other).output); }
  int64_t part_begin(int64_t count, int part) const {
    return count / size() * part + std::min<int64_t>(part, count % size());
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

bool is_communication_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& caught) {
    return caught.code() == ExitCode::communication;
  } catch (...) {
    return false;
  }
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size) {
  WEFT_ASSERT(size > 0, "{} ranks", size);
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> communicators;
  communicators.reserve(static_cast<size_t>(size));
  for (int rank = 0; rank < size; ++rank) communicators.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  return communicators;
}

void run_thread_ranks(int size, const std::function<void(const std::shared_ptr<Communicator>&)>& body) {
  auto communicators = make_thread_communicators(size);
  std::vector<std::exception_ptr> errors(communicators.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < communicators.size(); ++rank) {
    threads.emplace_back(
        [&body, &error = errors[rank], own = std::shared_ptr<Communicator>(std::move(communicators[rank]))]() mutable {
          try {
            body(own);
          } catch (...) {
            error = std::current_exception();
          }
          own.reset();
        });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr first;
  for (const std::exception_ptr& error : errors) {
    if (error && (!first || (is_communication_error(first) && !is_communication_error(error)))) first = error;
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace weft
