// A communicator of NCCL's and the streams that its calls are queued on: start-up, errors, deadlines, the end. What the
// calls are is nccl_communicator.cpp's matter. For .cpp files of a build with CUDA.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/nccl_communicator.h"
#include "parallel/nccl_library.h"

namespace weft {

/// One call of NCCL's; none if there are no bytes to move.
struct NcclCall {
  const char* what;
  size_t bytes;
  std::function<ncclResult_t(ncclComm_t comm, cudaStream_t stream)> queue;
  std::vector<Tensor> tensors;  // kept until a started call is done
};

class NcclConnection {
 public:
  /// Collective over `ranks`, which must outlive it: they find each other.
  NcclConnection(Communicator& ranks, const NcclLibrary& library, const NcclOptions& options);
  ~NcclConnection();
  NcclConnection(const NcclConnection&) = delete;
  NcclConnection& operator=(const NcclConnection&) = delete;

  /// Queues the call on the computing stream.
  void run(const NcclCall& call);
  /// Queues it on the stream beside that one.
  PendingCall start(const NcclCall& call);
  /// Returns when all calls have ended on the GPU.
  void wait_until_idle();
  /// The message that ended this communicator, if one has.
  void throw_if_failed() const;

 private:
  struct Failure;

  ncclUniqueId shared_id();
  void find_ranks(const ncclUniqueId& id);
  void begin(const NcclCall& call);
  bool is_idle() const;
  ncclResult_t state() const;
  /// Returns when NCCL has done its part of a call on the host. Before that the communicator takes no other, and what
  /// is queued on the stream next might get in front.
  void settle(ncclResult_t result, std::chrono::milliseconds deadline);
  std::string describe(ncclResult_t result) const { return nccl_error_text(library_, result, comm_); }
  [[noreturn]] void break_with(const std::string& reason);
  void abort_calls(const std::string& reason);
  /// Looks for errors while the computing thread waits for the GPU, which waits for other ranks.
  void watch();
  void end_watch();

  Communicator& ranks_;
  NcclLibrary library_;
  NcclOptions options_;
  std::shared_ptr<StreamDriver> streams_;
  int num_exceptions_ = std::uncaught_exceptions();
  std::shared_ptr<void> beside_;        // made when a call is first started
  std::shared_ptr<void> last_started_;  // the end of the last started call that no later one has waited for

  std::shared_ptr<Failure> failure_;  // its mutex is that of all below, too
  ncclComm_t comm_ = nullptr;
  const char* what_ = "start";  // the last call
  bool is_ending_ = false;
  std::condition_variable ending_;
  std::thread watcher_;
};

}  // namespace weft
