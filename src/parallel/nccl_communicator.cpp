#include "parallel/nccl_communicator.h"

#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "parallel/agreement.h"
#include "parallel/call_signature.h"
#include "parallel/nccl_connection.h"
#include "parallel/nccl_library.h"

namespace weft {
namespace {

void check_same_device(CallKind kind, const Tensor& input, const Tensor& output) {
  if (!input.defined() || !output.defined() || input.device() == output.device()) return;
  fail(ExitCode::communication,
       "{} from a tensor on {} {} to one on {} {}",
       call_name(kind),
       device_name(input.device().type),
       input.device().index,
       device_name(output.device().type),
       output.device().index);
}

void copy(const Tensor& from, Tensor& to) {
  if (to.raw() != from.raw()) to.copy_from(from);
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, const NcclLibrary& library, const NcclOptions& options)
      : host_(std::move(host)), library_(library), options_(options) {
    if (!is_alone()) connection_ = std::make_unique<NcclConnection>(*host_, library_, options_);
  }

  std::string_view backend() const override { return "nccl"; }
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  bool allows_concurrent_groups() const override { return false; }
  bool overlaps() const override { return options_.overlap && !is_alone(); }

  void all_reduce(Tensor& tensor, ReduceOp op) override;
  void all_gather(const Tensor& input, Tensor& output) override;
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override;
  PendingCall start_all_reduce(Tensor tensor, ReduceOp op) override;
  PendingCall start_all_gather(const Tensor& input, Tensor output) override;
  PendingCall start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp op) override;
  void broadcast(Tensor& tensor, int root) override;
  void barrier() override;
  void send(const Tensor& tensor, int peer) override;
  void receive(Tensor& tensor, int peer) override;
  std::unique_ptr<Communicator> split(int color, int key) override;

 private:
  bool is_alone() const { return size() == 1 && !options_.use_when_alone; }
  void compare_calls(const CallSignature& call);
  NcclCall all_reduce_call(Tensor tensor, ReduceOp op);
  NcclCall all_gather_call(const Tensor& input, Tensor output);
  NcclCall reduce_scatter_call(const Tensor& input, Tensor output, ReduceOp op);

  std::unique_ptr<Communicator> host_;
  NcclLibrary library_;
  NcclOptions options_;
  std::unique_ptr<NcclConnection> connection_;  // null when alone
};

void NcclCommunicator::compare_calls(const CallSignature& call) {
  if (!options_.check_calls) return;
  auto host = make_cpu_allocator();
  Tensor own = Tensor::empty(host, {static_cast<int64_t>(sizeof(call))}, DType::u8);
  Tensor all = Tensor::empty(host, {size(), static_cast<int64_t>(sizeof(call))}, DType::u8);
  std::memcpy(own.raw(), &call, sizeof(call));
  host_->all_gather(own, all);
  std::vector<CallSignature> calls(static_cast<size_t>(size()));
  std::memcpy(calls.data(), all.raw(), all.bytes());
  for (int other = 1; other < size(); ++other) {
    const CallSignature& other_call = calls[static_cast<size_t>(other)];
    if (other_call == calls[0]) continue;
    throw Error(ExitCode::communication, describe_mismatch(0, calls[0], other, other_call));
  }
}

NcclCall NcclCommunicator::all_reduce_call(Tensor tensor, ReduceOp op) {
  compare_calls(all_reduce_signature(tensor, op));
  return {.what = "all_reduce",
          .bytes = tensor.bytes(),
          .queue =
              [this, tensor, op](ncclComm_t comm, cudaStream_t stream) mutable {
                const auto count = static_cast<size_t>(tensor.num_elements());
                return library_.all_reduce(
                    tensor.raw(), tensor.raw(), count, nccl_type(tensor.dtype()), nccl_op(op), comm, stream);
              },
          .tensors = {tensor}};
}

NcclCall NcclCommunicator::all_gather_call(const Tensor& input, Tensor output) {
  compare_calls(all_gather_signature(input, output, size()));
  return {.what = "all_gather",
          .bytes = input.bytes(),
          .queue =
              [this, input, output](ncclComm_t comm, cudaStream_t stream) mutable {
                const auto count = static_cast<size_t>(input.num_elements());
                return library_.all_gather(input.raw(), output.raw(), count, nccl_type(input.dtype()), comm, stream);
              },
          .tensors = {input, output}};
}

NcclCall NcclCommunicator::reduce_scatter_call(const Tensor& input, Tensor output, ReduceOp op) {
  compare_calls(reduce_scatter_signature(input, output, op, size()));
  return {.what = "reduce_scatter",
          .bytes = output.bytes(),
          .queue =
              [this, input, output, op](ncclComm_t comm, cudaStream_t stream) mutable {
                const auto count = static_cast<size_t>(output.num_elements());
                return library_.reduce_scatter(
                    input.raw(), output.raw(), count, nccl_type(input.dtype()), nccl_op(op), comm, stream);
              },
          .tensors = {input, output}};
}

void NcclCommunicator::all_reduce(Tensor& tensor, ReduceOp op) {
  if (tensor.is_on_host()) return host_->all_reduce(tensor, op);
  const NcclCall call = all_reduce_call(tensor, op);
  if (!is_alone()) connection_->run(call);
}

void NcclCommunicator::all_gather(const Tensor& input, Tensor& output) {
  check_same_device(CallKind::all_gather, input, output);
  if (input.is_on_host()) return host_->all_gather(input, output);
  const NcclCall call = all_gather_call(input, output);
  if (is_alone()) return copy(input, output);
  connection_->run(call);
}

void NcclCommunicator::reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) {
  check_same_device(CallKind::reduce_scatter, input, output);
  if (input.is_on_host()) return host_->reduce_scatter(input, output, op);
  const NcclCall call = reduce_scatter_call(input, output, op);
  if (is_alone()) return copy(input, output);
  connection_->run(call);
}

PendingCall NcclCommunicator::start_all_reduce(Tensor tensor, ReduceOp op) {
  if (!overlaps() || tensor.is_on_host()) return Communicator::start_all_reduce(std::move(tensor), op);
  return connection_->start(all_reduce_call(std::move(tensor), op));
}

PendingCall NcclCommunicator::start_all_gather(const Tensor& input, Tensor output) {
  if (!overlaps() || input.is_on_host()) return Communicator::start_all_gather(input, std::move(output));
  check_same_device(CallKind::all_gather, input, output);
  return connection_->start(all_gather_call(input, std::move(output)));
}

PendingCall NcclCommunicator::start_reduce_scatter(const Tensor& input, Tensor output, ReduceOp op) {
  if (!overlaps() || input.is_on_host()) return Communicator::start_reduce_scatter(input, std::move(output), op);
  check_same_device(CallKind::reduce_scatter, input, output);
  return connection_->start(reduce_scatter_call(input, std::move(output), op));
}

void NcclCommunicator::broadcast(Tensor& tensor, int root) {
  if (tensor.is_on_host()) return host_->broadcast(tensor, root);
  compare_calls(broadcast_signature(tensor, root, size()));
  if (is_alone()) return;
  connection_->run({"broadcast",
                    tensor.bytes(),
                    [&](ncclComm_t comm, cudaStream_t stream) {
                      const auto count = static_cast<size_t>(tensor.num_elements());
                      return library_.broadcast(
                          tensor.raw(), tensor.raw(), count, nccl_type(tensor.dtype()), root, comm, stream);
                    },
                    {}});
}

void NcclCommunicator::barrier() {
  if (options_.activity) options_.activity->set_op("barrier");
  if (connection_ != nullptr) connection_->wait_until_idle();
  host_->barrier();
}

void NcclCommunicator::send(const Tensor& tensor, int peer) {
  if (tensor.is_on_host()) return host_->send(tensor, peer);
  check_peer(peer, rank(), size());
  send_signature(tensor);
  connection_->run({"send",
                    tensor.bytes(),
                    [&](ncclComm_t comm, cudaStream_t stream) {
                      const auto count = static_cast<size_t>(tensor.num_elements());
                      return library_.send(tensor.raw(), count, nccl_type(tensor.dtype()), peer, comm, stream);
                    },
                    {}});
}

void NcclCommunicator::receive(Tensor& tensor, int peer) {
  if (tensor.is_on_host()) return host_->receive(tensor, peer);
  check_peer(peer, rank(), size());
  send_signature(tensor);
  connection_->run({"receive",
                    tensor.bytes(),
                    [&](ncclComm_t comm, cudaStream_t stream) {
                      const auto count = static_cast<size_t>(tensor.num_elements());
                      return library_.receive(tensor.raw(), count, nccl_type(tensor.dtype()), peer, comm, stream);
                    },
                    {}});
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  if (connection_ != nullptr) connection_->throw_if_failed();
  return std::make_unique<NcclCommunicator>(host_->split(color, key), library_, options_);
}

}  // namespace

std::string no_nccl_reason(const std::string& library) {
  try {
    load_nccl(library);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

std::string nccl_version(const std::string& library) {
  return no_nccl_reason(library).empty() ? nccl_version_text(load_nccl(library).version) : std::string();
}

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap, const NcclOptions& options) {
  auto host = bootstrap.split(0, bootstrap.rank());
  NcclLibrary library;
  std::string error;
  try {
    library = load_nccl(options.library);
  } catch (const Error& caught) {
    error = caught.what();
  }
  agree(*host, error);
  return std::make_unique<NcclCommunicator>(std::move(host), library, options);
}

}  // namespace weft
