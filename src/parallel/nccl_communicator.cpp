#include "parallel/nccl_communicator.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"
#include "parallel/call_signature.h"
#include "parallel/nccl_library.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// For the other ranks to leave a communicator too, before it is aborted.
constexpr milliseconds kFinalizeDeadline{5000};

double seconds(milliseconds duration) {
  return static_cast<double>(duration.count()) / 1000;
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u8:
      return ncclUint8;
  }
  fail(ExitCode::communication, "NCCL does not move {} tensors", dtype_name(dtype));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  if (op == ReduceOp::max) return ncclMax;
  return op == ReduceOp::min ? ncclMin : ncclSum;
}

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

/// The time between two looks at something that is mostly there within microseconds.
class Pause {
 public:
  bool is_past(milliseconds deadline) const { return Clock::now() - start_ > deadline; }
  void rest() const {
    const Clock::duration waited = Clock::now() - start_;
    if (waited < milliseconds(1)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(waited < milliseconds(100) ? 50 : 1000));
    }
  }

 private:
  Clock::time_point start_ = Clock::now();
};

/// Collective: if some ranks have an error, all throw that of the lowest, so that nobody waits for a rank that has
/// given up.
void agree(Communicator& ranks, const std::string& error) {
  constexpr int64_t kTextBytes = 1024;
  auto host = make_cpu_allocator();
  Tensor first = Tensor::empty(host, {1}, DType::i32);
  first.data<int32_t>()[0] = error.empty() ? ranks.size() : ranks.rank();
  ranks.all_reduce(first, ReduceOp::min);
  const int speaker = first.data<int32_t>()[0];
  if (speaker == ranks.size()) return;
  Tensor text = Tensor::zeros(host, {kTextBytes}, DType::u8);
  if (ranks.rank() == speaker) {
    std::memcpy(text.raw(), error.data(), std::min(error.size(), static_cast<size_t>(kTextBytes) - 1));
  }
  ranks.broadcast(text, speaker);
  throw Error(ExitCode::communication, static_cast<const char*>(text.raw()));
}

bool is_cuda_stream_idle(cudaStream_t stream) {
  const cudaError_t status = cudaStreamQuery(stream);
  if (status == cudaSuccess) return true;
  cudaGetLastError();
  if (status == cudaErrorNotReady) return false;
  fail(ExitCode::failure, "CUDA: the work on the GPU failed: {}", cudaGetErrorString(status));
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, const NcclLibrary& library, NcclOptions options)
      : host_(std::move(host)), library_(library), options_(std::move(options)) {}
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// Collective: the ranks find each other.
  void connect();

  std::string_view backend() const override { return "nccl"; }
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  bool allows_concurrent_groups() const override { return false; }

  void all_reduce(Tensor& tensor, ReduceOp op) override;
  void all_gather(const Tensor& input, Tensor& output) override;
  void reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) override;
  void broadcast(Tensor& tensor, int root) override;
  void barrier() override;
  void send(const Tensor& tensor, int peer) override;
  void receive(Tensor& tensor, int peer) override;
  std::unique_ptr<Communicator> split(int color, int key) override;

 private:
  bool is_alone() const { return size() == 1 && !options_.use_when_alone; }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(options_.stream); }
  bool is_stream_idle() const {
    return options_.stream_is_idle ? options_.stream_is_idle() : is_cuda_stream_idle(stream());
  }
  ncclUniqueId shared_id();
  void start(const ncclUniqueId& id);
  void compare_calls(const CallSignature& call);
  /// One call of NCCL's, which `queue` makes; none if there are no bytes to move.
  template <typename Queue>
  void run(const char* what, const Tensor& moved, Queue queue);
  ncclResult_t state() const;
  /// Returns when NCCL has done its part of a call on the host. Before that the communicator takes no other, and what
  /// is queued on the stream next might get in front.
  void settle(ncclResult_t result, milliseconds deadline);
  std::string describe(ncclResult_t result) const;
  void throw_if_broken() const;
  [[noreturn]] void break_with(const std::string& reason);
  void abort_calls(const std::string& reason);
  /// Looks for errors while the computing thread waits for the GPU, which waits for other ranks.
  void watch();
  void end_watch();

  std::unique_ptr<Communicator> host_;
  NcclLibrary library_;
  NcclOptions options_;
  int num_exceptions_ = std::uncaught_exceptions();

  std::mutex mutex_;  // of all below
  ncclComm_t comm_ = nullptr;
  const char* what_ = "start";  // the last call
  std::string failure_;
  bool is_ending_ = false;
  std::condition_variable ending_;
  std::thread watcher_;
};

NcclCommunicator::~NcclCommunicator() {
  end_watch();
  if (comm_ == nullptr) return;
  // A rank that leaves because of an exception has not made the calls that its peers' part of them waits for.
  if (std::uncaught_exceptions() <= num_exceptions_) {
    library_.comm_finalize(comm_);
    const Pause pause;
    while (state() == ncclInProgress && !pause.is_past(kFinalizeDeadline)) pause.rest();
    if (state() == ncclSuccess) {
      library_.comm_destroy(comm_);
      return;
    }
  }
  library_.comm_abort(comm_);
}

void NcclCommunicator::connect() {
  if (is_alone()) return;
  if (options_.activity) options_.activity->set_op("start of NCCL");
  const ncclUniqueId id = shared_id();
  std::string error;
  try {
    start(id);
  } catch (const Error& caught) {
    error = caught.what();
  }
  agree(*host_, error);
  watcher_ = std::thread([this] { watch(); });
}

void NcclCommunicator::start(const ncclUniqueId& id) {
  if (!options_.stream_is_idle && cudaSetDevice(options_.device_index) != cudaSuccess) {
    fail(ExitCode::communication, "CUDA has no GPU {} on rank {}", options_.device_index, rank());
  }
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  settle(library_.comm_init_rank_config(&comm_, size(), id, rank(), &config), options_.start_deadline);
}

ncclUniqueId NcclCommunicator::shared_id() {
  ncclUniqueId id{};
  std::string error;
  if (rank() == 0) {
    const ncclResult_t result = library_.get_unique_id(&id);
    if (result != ncclSuccess) error = fmt::format("NCCL start failed on rank 0: {}", describe(result));
  }
  agree(*host_, error);
  Tensor bytes = Tensor::empty(make_cpu_allocator(), {static_cast<int64_t>(sizeof(id))}, DType::u8);
  std::memcpy(bytes.raw(), &id, sizeof(id));
  host_->broadcast(bytes, 0);
  std::memcpy(&id, bytes.raw(), sizeof(id));
  return id;
}

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

template <typename Queue>
void NcclCommunicator::run(const char* what, const Tensor& moved, Queue queue) {
  if (options_.activity) options_.activity->set_op(what);
  if (moved.bytes() == 0) return;
  const std::lock_guard lock(mutex_);
  throw_if_broken();
  what_ = what;
  settle(queue(), options_.deadline);
}

ncclResult_t NcclCommunicator::state() const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = library_.comm_get_async_error(comm_, &state);
  return asked == ncclSuccess ? state : asked;
}

void NcclCommunicator::settle(ncclResult_t result, milliseconds deadline) {
  const Pause pause;
  if (comm_ != nullptr && result == ncclSuccess) result = state();
  while (comm_ != nullptr && result == ncclInProgress) {
    if (pause.is_past(deadline)) {
      break_with(fmt::format("the other ranks have not answered for {:.3g} s", seconds(deadline)));
    }
    pause.rest();
    result = state();
  }
  if (result != ncclSuccess) break_with(describe(result));
}

/// "remote process exited or there was a network error: socket closed", in one line.
std::string NcclCommunicator::describe(ncclResult_t result) const {
  std::string text = library_.get_error_string(result);
  const char* details = library_.get_last_error(comm_);
  if (details != nullptr && *details != '\0') text += fmt::format(": {}", details);
  std::replace_if(
      text.begin(), text.end(), [](char letter) { return letter == '\n' || letter == '\t'; }, ' ');
  text.erase(text.find_last_not_of(' ') + 1);
  return printable(text, 400);
}

void NcclCommunicator::throw_if_broken() const {
  if (!failure_.empty()) throw Error(ExitCode::communication, failure_);
}

void NcclCommunicator::break_with(const std::string& reason) {
  abort_calls(reason);
  throw Error(ExitCode::communication, failure_);
}

/// Kernels that wait for other ranks end too, so that nobody who waits for the stream is stuck.
void NcclCommunicator::abort_calls(const std::string& reason) {
  failure_ =
      fmt::format("NCCL {} failed on rank {} of {} (GPU {}): {}", what_, rank(), size(), options_.device_index, reason);
  if (comm_ != nullptr) library_.comm_abort(comm_);
  comm_ = nullptr;
}

void NcclCommunicator::watch() {
  std::unique_lock lock(mutex_);
  while (!ending_.wait_for(lock, options_.watch_interval, [this] { return is_ending_; })) {
    if (comm_ == nullptr) continue;
    const ncclResult_t now = state();
    if (now != ncclSuccess && now != ncclInProgress) abort_calls(describe(now));
  }
}

void NcclCommunicator::end_watch() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  ending_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

void NcclCommunicator::all_reduce(Tensor& tensor, ReduceOp op) {
  if (tensor.is_on_host()) return host_->all_reduce(tensor, op);
  compare_calls(all_reduce_signature(tensor, op));
  if (is_alone()) return;
  run("all_reduce", tensor, [&] {
    const auto count = static_cast<size_t>(tensor.num_elements());
    return library_.all_reduce(
        tensor.raw(), tensor.raw(), count, nccl_type(tensor.dtype()), nccl_op(op), comm_, stream());
  });
}

void NcclCommunicator::all_gather(const Tensor& input, Tensor& output) {
  check_same_device(CallKind::all_gather, input, output);
  if (input.is_on_host()) return host_->all_gather(input, output);
  compare_calls(all_gather_signature(input, output, size()));
  if (is_alone()) return copy(input, output);
  run("all_gather", input, [&] {
    const auto count = static_cast<size_t>(input.num_elements());
    return library_.all_gather(input.raw(), output.raw(), count, nccl_type(input.dtype()), comm_, stream());
  });
}

void NcclCommunicator::reduce_scatter(const Tensor& input, Tensor& output, ReduceOp op) {
  check_same_device(CallKind::reduce_scatter, input, output);
  if (input.is_on_host()) return host_->reduce_scatter(input, output, op);
  compare_calls(reduce_scatter_signature(input, output, op, size()));
  if (is_alone()) return copy(input, output);
  run("reduce_scatter", output, [&] {
    const auto count = static_cast<size_t>(output.num_elements());
    return library_.reduce_scatter(
        input.raw(), output.raw(), count, nccl_type(input.dtype()), nccl_op(op), comm_, stream());
  });
}

void NcclCommunicator::broadcast(Tensor& tensor, int root) {
  if (tensor.is_on_host()) return host_->broadcast(tensor, root);
  compare_calls(broadcast_signature(tensor, root, size()));
  if (is_alone()) return;
  run("broadcast", tensor, [&] {
    const auto count = static_cast<size_t>(tensor.num_elements());
    return library_.broadcast(tensor.raw(), tensor.raw(), count, nccl_type(tensor.dtype()), root, comm_, stream());
  });
}

void NcclCommunicator::barrier() {
  if (options_.activity) options_.activity->set_op("barrier");
  const Pause pause;
  while (!is_alone() && !is_stream_idle()) {
    const std::lock_guard lock(mutex_);
    throw_if_broken();
    what_ = "barrier";
    settle(ncclSuccess, options_.deadline);
    if (pause.is_past(options_.deadline)) {
      break_with(fmt::format("the calls before it have not ended for {:.3g} s", seconds(options_.deadline)));
    }
    pause.rest();
  }
  {
    const std::lock_guard lock(mutex_);
    throw_if_broken();
  }
  host_->barrier();
}

void NcclCommunicator::send(const Tensor& tensor, int peer) {
  if (tensor.is_on_host()) return host_->send(tensor, peer);
  check_peer(peer, rank(), size());
  send_signature(tensor);
  run("send", tensor, [&] {
    const auto count = static_cast<size_t>(tensor.num_elements());
    return library_.send(tensor.raw(), count, nccl_type(tensor.dtype()), peer, comm_, stream());
  });
}

void NcclCommunicator::receive(Tensor& tensor, int peer) {
  if (tensor.is_on_host()) return host_->receive(tensor, peer);
  check_peer(peer, rank(), size());
  send_signature(tensor);
  run("receive", tensor, [&] {
    const auto count = static_cast<size_t>(tensor.num_elements());
    return library_.receive(tensor.raw(), count, nccl_type(tensor.dtype()), peer, comm_, stream());
  });
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  {
    const std::lock_guard lock(mutex_);
    throw_if_broken();
  }
  auto part = std::make_unique<NcclCommunicator>(host_->split(color, key), library_, options_);
  part->connect();
  return part;
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
  auto communicator = std::make_unique<NcclCommunicator>(std::move(host), library, options);
  communicator->connect();
  return communicator;
}

}  // namespace weft
