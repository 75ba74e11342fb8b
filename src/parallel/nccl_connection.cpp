#include "parallel/nccl_connection.h"

#include <cstring>
#include <utility>

#include "core/error.h"
#include "parallel/agreement.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// For the other ranks to leave a communicator too, before it is aborted.
constexpr milliseconds kFinalizeDeadline{5000};

double seconds(milliseconds duration) {
  return static_cast<double>(duration.count()) / 1000;
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

/// A started call. Until the computing stream waits for its end, nobody gets the memory of its tensors.
class InFlight {
 public:
  InFlight(std::shared_ptr<StreamDriver> streams,
           void* computing,
           std::shared_ptr<void> beside,
           std::shared_ptr<void> end,
           std::vector<Tensor> tensors)
      : streams_(std::move(streams)),
        computing_(computing),
        beside_(std::move(beside)),
        end_(std::move(end)),
        tensors_(std::move(tensors)) {}
  ~InFlight() {
    try {
      join();
    } catch (const Error&) {
      // CUDA no longer answers: whoever reads the result is told.
    }
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  void join() {
    if (auto end = std::exchange(end_, nullptr)) streams_->wait(computing_, end.get());
    tensors_.clear();
  }

 private:
  std::shared_ptr<StreamDriver> streams_;
  void* computing_;
  std::shared_ptr<void> beside_;
  std::shared_ptr<void> end_;
  std::vector<Tensor> tensors_;
};

}  // namespace

/// Why calls have failed; whoever waits for a started one may ask when the communicator is gone.
struct NcclConnection::Failure {
  std::mutex mutex;
  std::string text;

  void throw_if_any() const {
    if (!text.empty()) throw Error(ExitCode::communication, text);
  }
};

NcclConnection::NcclConnection(Communicator& ranks, const NcclLibrary& library, const NcclOptions& options)
    : ranks_(ranks),
      library_(library),
      options_(options),
      streams_(options.streams != nullptr ? options.streams : make_cuda_stream_driver()),
      failure_(std::make_shared<Failure>()) {
  if (options_.activity) options_.activity->set_op("start of NCCL");
  const ncclUniqueId id = shared_id();
  std::string error;
  try {
    find_ranks(id);
  } catch (const Error& caught) {
    error = caught.what();
  }
  try {
    agree(ranks_, error);
  } catch (const Error&) {
    if (comm_ != nullptr) library_.comm_abort(comm_);
    throw;
  }
  watcher_ = std::thread([this] { watch(); });
}

void NcclConnection::find_ranks(const ncclUniqueId& id) {
  streams_->use_device(options_.device_index);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  settle(library_.comm_init_rank_config(&comm_, ranks_.size(), id, ranks_.rank(), &config), options_.start_deadline);
}

ncclUniqueId NcclConnection::shared_id() {
  ncclUniqueId id{};
  std::string error;
  if (ranks_.rank() == 0) {
    const ncclResult_t result = library_.get_unique_id(&id);
    if (result != ncclSuccess) error = fmt::format("NCCL start failed on rank 0: {}", describe(result));
  }
  agree(ranks_, error);
  Tensor bytes = Tensor::empty(make_cpu_allocator(), {static_cast<int64_t>(sizeof(id))}, DType::u8);
  std::memcpy(bytes.raw(), &id, sizeof(id));
  ranks_.broadcast(bytes, 0);
  std::memcpy(&id, bytes.raw(), sizeof(id));
  return id;
}

NcclConnection::~NcclConnection() {
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

void NcclConnection::begin(const NcclCall& call) {
  failure_->throw_if_any();
  what_ = call.what;
}

void NcclConnection::run(const NcclCall& call) {
  if (options_.activity) options_.activity->set_op(call.what);
  if (call.bytes == 0) return;
  const std::lock_guard lock(failure_->mutex);
  begin(call);
  // A communicator's calls are done one after the other, whatever the stream.
  if (auto last = std::exchange(last_started_, nullptr)) streams_->wait(options_.stream, last.get());
  settle(call.queue(comm_, static_cast<cudaStream_t>(options_.stream)), options_.deadline);
}

PendingCall NcclConnection::start(const NcclCall& call) {
  if (options_.activity) options_.activity->set_op(call.what);
  if (call.bytes == 0) return {};
  const std::lock_guard lock(failure_->mutex);
  begin(call);
  if (beside_ == nullptr) beside_ = streams_->make_stream();
  streams_->wait(beside_.get(), streams_->record(options_.stream).get());
  settle(call.queue(comm_, static_cast<cudaStream_t>(beside_.get())), options_.deadline);
  last_started_ = streams_->record(beside_.get());
  auto in_flight = std::make_shared<InFlight>(streams_, options_.stream, beside_, last_started_, call.tensors);
  return PendingCall([in_flight, failure = failure_] {
    in_flight->join();
    const std::lock_guard failure_lock(failure->mutex);
    failure->throw_if_any();
  });
}

void NcclConnection::wait_until_idle() {
  const Pause pause;
  while (!is_idle()) {
    const std::lock_guard lock(failure_->mutex);
    failure_->throw_if_any();
    what_ = "barrier";
    settle(ncclSuccess, options_.deadline);
    if (pause.is_past(options_.deadline)) {
      break_with(fmt::format("the calls before it have not ended for {:.3g} s", seconds(options_.deadline)));
    }
    pause.rest();
  }
  throw_if_failed();
}

bool NcclConnection::is_idle() const {
  return streams_->is_idle(options_.stream) && (beside_ == nullptr || streams_->is_idle(beside_.get()));
}

void NcclConnection::throw_if_failed() const {
  const std::lock_guard lock(failure_->mutex);
  failure_->throw_if_any();
}

ncclResult_t NcclConnection::state() const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = library_.comm_get_async_error(comm_, &state);
  return asked == ncclSuccess ? state : asked;
}

void NcclConnection::settle(ncclResult_t result, milliseconds deadline) {
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

void NcclConnection::break_with(const std::string& reason) {
  abort_calls(reason);
  throw Error(ExitCode::communication, failure_->text);
}

/// Kernels that wait for other ranks end too, so that nobody who waits for the stream is stuck.
void NcclConnection::abort_calls(const std::string& reason) {
  failure_->text = fmt::format("NCCL {} failed on rank {} of {} (GPU {}): {}",
                               what_,
                               ranks_.rank(),
                               ranks_.size(),
                               options_.device_index,
                               reason);
  if (comm_ != nullptr) library_.comm_abort(comm_);
  comm_ = nullptr;
}

void NcclConnection::watch() {
  std::unique_lock lock(failure_->mutex);
  while (!ending_.wait_for(lock, options_.watch_interval, [this] { return is_ending_; })) {
    if (comm_ == nullptr) continue;
    const ncclResult_t now = state();
    if (now != ncclSuccess && now != ncclInProgress) abort_calls(describe(now));
  }
}

void NcclConnection::end_watch() {
  {
    const std::lock_guard lock(failure_->mutex);
    is_ending_ = true;
  }
  ending_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

}  // namespace weft
