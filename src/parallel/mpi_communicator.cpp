#include "parallel/mpi_communicator.h"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "parallel/call_signature.h"
#include "parallel/node_exchange.h"
#include "parallel/reduction.h"

#if defined(__SANITIZE_ADDRESS__)
/// Asked by LeakSanitizer at the end. MPI leaves memory behind, mostly from modules that are unloaded by then, so that
/// no suppression could name them; processes without MPI are still checked.
extern "C" int __lsan_is_turned_off() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  return initialized;
}
#endif

namespace weft {
namespace {

// Large reductions go in pieces of this size, so that the parts of a piece are still in the cache when they are added.
constexpr int64_t kReduceBytes = int64_t{4} << 20;

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail(ExitCode::communication, "{} failed: {}", what, std::string_view(text.data(), static_cast<size_t>(length)));
}

/// `bytes` bytes that lie `stride` apart when sent or received several times over.
class StridedBytes {
 public:
  StridedBytes(int64_t bytes, int64_t stride) {
    MPI_Datatype block = MPI_DATATYPE_NULL;
    check(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &block), "MPI_Type_contiguous");
    check(MPI_Type_create_resized(block, 0, static_cast<MPI_Aint>(stride), &type_), "MPI_Type_create_resized");
    MPI_Type_free(&block);
    check(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  ~StridedBytes() { MPI_Type_free(&type_); }
  StridedBytes(const StridedBytes&) = delete;
  StridedBytes& operator=(const StridedBytes&) = delete;
  MPI_Datatype type() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

class MpiCommunicator final : public Communicator {
 public:
  /// Owns `communicator`. Collective.
  MpiCommunicator(MPI_Comm communicator, MpiOptions options)
      : communicator_(communicator), options_(std::move(options)) {
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
    check(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
    if (options_.use_shared_memory && size_ > 1) exchange_ = make_exchange();
  }

  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&communicator_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  std::string_view backend() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(Tensor& tensor, ReduceOp op) override;
  void all_gather(const Tensor& input, Tensor& output) override;
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override;
  void broadcast(Tensor& tensor, int root) override;
  void barrier() override;
  void send(const Tensor& tensor, int peer) override;
  void receive(Tensor& tensor, int peer) override;
  std::unique_ptr<Communicator> split(int color, int key) override;

  bool allows_concurrent_groups() const override {
    int provided = MPI_THREAD_SINGLE;
    MPI_Query_thread(&provided);
    return provided == MPI_THREAD_MULTIPLE;
  }

 private:
  std::unique_ptr<NodeExchange> make_exchange() const;
  bool all_agree(bool agreed) const;
  bool begin(const CallSignature& call, const void* data, size_t bytes);
  void compare_calls(const CallSignature& call) const;
  void reduce_piece(std::byte* data, int64_t count, DType dtype, ReduceOp op);
  std::vector<const void*> shown_parts(size_t offset) const;
  std::byte* scratch(int64_t bytes);
  /// Calls visit(offset, bytes) for pieces of at most max_message_bytes; once, with nothing, for no bytes.
  template <typename Visit>
  void for_each_message(int64_t bytes, Visit visit) const {
    int64_t offset = 0;
    do {
      const int64_t length = std::min(options_.max_message_bytes, bytes - offset);
      visit(offset, static_cast<int>(length));
      offset += length;
    } while (offset < bytes);
  }

  MPI_Comm communicator_;
  MpiOptions options_;
  int rank_ = 0;
  int size_ = 1;
  std::unique_ptr<NodeExchange> exchange_;
  std::vector<std::byte> scratch_;
};

bool MpiCommunicator::all_agree(bool agreed) const {
  int value = agreed ? 1 : 0;
  check(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MIN, communicator_), "MPI_Allreduce");
  return value == 1;
}

std::unique_ptr<NodeExchange> MpiCommunicator::make_exchange() const {
  MPI_Comm node = MPI_COMM_NULL;
  check(MPI_Comm_split_type(communicator_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node), "MPI_Comm_split_type");
  int node_size = 0;
  MPI_Comm_size(node, &node_size);
  MPI_Comm_free(&node);
  if (!all_agree(node_size == size_)) return nullptr;

  std::array<char, 64> name{};
  std::unique_ptr<NodeExchange> exchange;
  if (rank_ == 0) {
    const int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
    fmt::format_to_n(name.data(), name.size() - 1, "/weft-{}-{:x}", getpid(), now);
    exchange = NodeExchange::create(name.data(), size_);
  }
  check(MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, communicator_), "MPI_Bcast");
  const bool created = all_agree(rank_ != 0 || exchange != nullptr);
  if (created && rank_ != 0) exchange = NodeExchange::open(name.data(), rank_, size_);
  const bool opened = created && all_agree(exchange != nullptr);
  if (rank_ == 0) NodeExchange::unlink(name.data());
  return opened ? std::move(exchange) : nullptr;
}

/// Starts a call. True if all of it went through shared memory: then the ranks' `bytes` lie there.
bool MpiCommunicator::begin(const CallSignature& call, const void* data, size_t bytes) {
  if (options_.activity) options_.activity->set_op(call_name(call.kind));
  if (exchange_) {
    const bool fits = bytes <= NodeExchange::kSlotBytes;
    // A message sent earlier may still need this rank's hand to leave it.
    exchange_->show(call, fits ? data : nullptr, fits ? bytes : 0, [this] {
      int pending = 0;
      MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, communicator_, &pending, MPI_STATUS_IGNORE);
    });
    return fits;
  }
  if (options_.check_calls) compare_calls(call);
  return false;
}

void MpiCommunicator::compare_calls(const CallSignature& call) const {
  std::vector<CallSignature> calls(static_cast<size_t>(size_));
  check(MPI_Allgather(&call, sizeof(call), MPI_BYTE, calls.data(), sizeof(call), MPI_BYTE, communicator_),
        "MPI_Allgather");
  for (int other = 1; other < size_; ++other) {
    const CallSignature& other_call = calls[static_cast<size_t>(other)];
    if (other_call == calls[0]) continue;
    throw Error(ExitCode::communication, describe_mismatch(0, calls[0], other, other_call));
  }
}

std::vector<const void*> MpiCommunicator::shown_parts(size_t offset) const {
  std::vector<const void*> parts(static_cast<size_t>(size_));
  for (int other = 0; other < size_; ++other) parts[static_cast<size_t>(other)] = exchange_->payload(other) + offset;
  return parts;
}

std::byte* MpiCommunicator::scratch(int64_t bytes) {
  if (scratch_.size() < static_cast<size_t>(bytes)) scratch_.resize(static_cast<size_t>(bytes));
  return scratch_.data();
}

void MpiCommunicator::all_reduce(Tensor& tensor, ReduceOp op) {
  const CallSignature call = all_reduce_signature(tensor, op);
  const int64_t count = tensor.num_elements();
  if (begin(call, tensor.raw(), tensor.bytes())) {
    if (count > 0) reduce_parts(tensor.dtype(), op, shown_parts(0), tensor.raw(), count);
    return;
  }
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(tensor.dtype()));
  const int64_t piece = std::max<int64_t>(1, std::min(kReduceBytes, options_.max_message_bytes) / element_bytes);
  auto* data = static_cast<std::byte*>(tensor.raw());
  for (int64_t first = 0; first < count; first += piece) {
    reduce_piece(data + first * element_bytes, std::min(piece, count - first), tensor.dtype(), op);
  }
}

/// Every rank collects its part of the piece from all, adds in rank order and hands the sum out: the same bits
/// everywhere by construction, with as few bytes on the wire as there can be.
void MpiCommunicator::reduce_piece(std::byte* data, int64_t count, DType dtype, ReduceOp op) {
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(dtype));
  const auto num_parts = static_cast<size_t>(size_);
  std::vector<int> bytes(num_parts);
  std::vector<int> offsets(num_parts);
  for (int part = 0; part < size_; ++part) {
    const int64_t begin = count * part / size_;
    const int64_t end = count * (part + 1) / size_;
    offsets[static_cast<size_t>(part)] = static_cast<int>(begin * element_bytes);
    bytes[static_cast<size_t>(part)] = static_cast<int>((end - begin) * element_bytes);
  }
  const int own_bytes = bytes[static_cast<size_t>(rank_)];
  const int own_offset = offsets[static_cast<size_t>(rank_)];
  std::vector<int> received_bytes(num_parts, own_bytes);
  std::vector<int> received_offsets(num_parts);
  for (int part = 0; part < size_; ++part) received_offsets[static_cast<size_t>(part)] = part * own_bytes;
  std::byte* received = scratch(int64_t{own_bytes} * size_);
  check(MPI_Alltoallv(data,
                      bytes.data(),
                      offsets.data(),
                      MPI_BYTE,
                      received,
                      received_bytes.data(),
                      received_offsets.data(),
                      MPI_BYTE,
                      communicator_),
        "all_reduce");
  const auto parts = strided_parts(received, own_bytes, size_);
  if (own_bytes > 0) reduce_parts(dtype, op, parts, data + own_offset, own_bytes / element_bytes);
  check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, bytes.data(), offsets.data(), MPI_BYTE, communicator_),
        "all_reduce");
}

void MpiCommunicator::all_gather(const Tensor& input, Tensor& output) {
  const CallSignature call = all_gather_signature(input, output, size_);
  auto* target = static_cast<std::byte*>(output.raw());
  const auto bytes = static_cast<int64_t>(input.bytes());
  if (begin(call, input.raw(), input.bytes())) {
    for (int other = 0; other < size_ && bytes > 0; ++other) {
      std::memcpy(target + other * bytes, exchange_->payload(other), input.bytes());
    }
    return;
  }
  const auto* source = static_cast<const std::byte*>(input.raw());
  const bool in_place = source == target + rank_ * bytes;
  for_each_message(bytes, [&](int64_t offset, int length) {
    const StridedBytes strided(length, bytes);
    const void* sent = in_place ? MPI_IN_PLACE : source + offset;
    check(MPI_Allgather(sent, length, MPI_BYTE, target + offset, 1, strided.type(), communicator_), "all_gather");
  });
}

void MpiCommunicator::reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) {
  const CallSignature call = reduce_scatter_signature(input, output, op, size_);
  const auto bytes = static_cast<int64_t>(output.bytes());
  if (begin(call, input.raw(), input.bytes())) {
    const auto parts = shown_parts(static_cast<size_t>(rank_) * output.bytes());
    if (bytes > 0) reduce_parts(output.dtype(), op, parts, output.raw(), output.num_elements());
    return;
  }
  const auto* source = static_cast<const std::byte*>(input.raw());
  auto* target = static_cast<std::byte*>(output.raw());
  const auto element_bytes = static_cast<int64_t>(dtype_bytes(output.dtype()));
  const int64_t whole_elements = std::min(kReduceBytes, options_.max_message_bytes) / element_bytes * element_bytes;
  const int64_t piece = std::max(element_bytes, whole_elements);
  for (int64_t offset = 0; offset < bytes; offset += piece) {
    const auto length = static_cast<int>(std::min(piece, bytes - offset));
    const StridedBytes strided(length, bytes);
    std::byte* received = scratch(int64_t{length} * size_);
    check(MPI_Alltoall(source + offset, 1, strided.type(), received, length, MPI_BYTE, communicator_),
          "reduce_scatter");
    const auto parts = strided_parts(received, length, size_);
    reduce_parts(output.dtype(), op, parts, target + offset, length / element_bytes);
  }
}

void MpiCommunicator::broadcast(Tensor& tensor, int root) {
  const CallSignature call = broadcast_signature(tensor, root, size_);
  if (begin(call, rank_ == root ? tensor.raw() : nullptr, tensor.bytes())) {
    if (rank_ != root && tensor.bytes() > 0) std::memcpy(tensor.raw(), exchange_->payload(root), tensor.bytes());
    return;
  }
  auto* data = static_cast<std::byte*>(tensor.raw());
  for_each_message(static_cast<int64_t>(tensor.bytes()), [&](int64_t offset, int length) {
    check(MPI_Bcast(data + offset, length, MPI_BYTE, root, communicator_), "broadcast");
  });
}

void MpiCommunicator::barrier() {
  if (begin({.kind = CallKind::barrier}, nullptr, 0)) return;
  check(MPI_Barrier(communicator_), "barrier");
}

void MpiCommunicator::send(const Tensor& tensor, int peer) {
  check_peer(peer, rank_, size_);
  const CallSignature call = send_signature(tensor);
  if (options_.activity) options_.activity->set_op("send");
  const auto* data = static_cast<const std::byte*>(tensor.raw());
  for_each_message(static_cast<int64_t>(tensor.bytes()), [&](int64_t offset, int length) {
    check(MPI_Send(data + offset, length, MPI_BYTE, peer, static_cast<int>(call.dtype), communicator_), "send");
  });
}

void MpiCommunicator::receive(Tensor& tensor, int peer) {
  check_peer(peer, rank_, size_);
  const CallSignature call = send_signature(tensor);
  if (options_.activity) options_.activity->set_op("receive");
  auto* data = static_cast<std::byte*>(tensor.raw());
  for_each_message(static_cast<int64_t>(tensor.bytes()), [&](int64_t offset, int length) {
    MPI_Status status{};
    check(MPI_Recv(data + offset, length, MPI_BYTE, peer, MPI_ANY_TAG, communicator_, &status), "receive");
    int received = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &received), "receive");
    // The tag is the sender's dtype.
    if (received == length && status.MPI_TAG == static_cast<int>(call.dtype)) return;
    fail(ExitCode::communication,
         "rank {} expects {} bytes of {} from rank {}, which sends {} bytes of {}",
         rank_,
         length,
         dtype_name(call.dtype),
         peer,
         received,
         dtype_name(static_cast<DType>(status.MPI_TAG)));
  });
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key) {
  begin({.kind = CallKind::split}, nullptr, 0);
  MPI_Comm part = MPI_COMM_NULL;
  check(MPI_Comm_split(communicator_, color, key, &part), "split");
  return std::make_unique<MpiCommunicator>(part, options_);
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options) {
  MPI_Comm duplicate = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &duplicate), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(duplicate, options);
}

}  // namespace weft
