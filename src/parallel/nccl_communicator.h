// Ranks with a GPU each: NCCL carries what lies on the GPUs.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "parallel/activity.h"
#include "parallel/communicator.h"
#include "parallel/mpi_communicator.h"
#include "parallel/stream_driver.h"

namespace weft {

struct NcclOptions {
  /// The cudaStream_t on which the tensors are computed: calls are queued there too, so that the host does not wait for
  /// them. It and the tensors' memory must outlive the communicator.
  void* stream = nullptr;
  /// This rank's GPU; each rank needs one of its own.
  int device_index = 0;
  /// Empty: what the environment variable WEFT_NCCL_LIBRARY names, else libnccl.so.2.
  std::string library = {};
  /// For the ranks to find each other.
  std::chrono::milliseconds start_deadline{60'000};
  /// For a call to be queued, and for barrier() to see the stream's work end.
  std::chrono::milliseconds deadline{300'000};
  /// Between two looks for errors while the GPU works.
  std::chrono::milliseconds watch_interval{1000};
  /// Compares kind, op, dtype and shape of every collective on the host before it is queued. Without it a mismatch
  /// between ranks leaves the GPUs waiting for each other. send and receive are never compared.
  bool check_calls = kCheckCallsByDefault;
  /// A group of one rank needs no NCCL; a test of the library on a single GPU does.
  bool use_when_alone = false;
  /// Told the name of every operation; may be null.
  std::shared_ptr<Activity> activity = nullptr;
  /// Whether started calls get a stream of their own; without it they are queued like all others.
  bool overlap = true;
  /// Null: CUDA's streams. With others CUDA's runtime is not called at all: for tests without a GPU.
  std::shared_ptr<StreamDriver> streams = nullptr;
};

/// Why make_nccl_communicator would fail on this rank, in one line; empty if the library is there and new enough.
std::string no_nccl_reason(const std::string& library = {});

/// The version of the library, "2.28.9"; empty if there is a no_nccl_reason.
std::string nccl_version(const std::string& library = {});

/// Collective over `bootstrap`, from which it makes a communicator of its own: that one carries start-up, barriers and
/// tensors in host memory. A call with tensors on the GPU returns once it is queued on the stream: the result is in
/// place for whatever is queued there next. A started call waits for what is queued on the stream by then and runs on a
/// stream beside it; wait() makes what is queued next wait for it, not the host. An error of NCCL's throws
/// Error(communication) and ends this communicator: what it has queued is aborted, and later calls throw the same. If
/// one rank cannot start, all throw its message.
///
/// Sums and extremes are NCCL's: the same bits on every rank, but with more than two ranks bf16 sums may be rounded at
/// each rank on the way, and a NaN may lose against a number in max and min. Groups must not be used by other threads
/// at the same time: with one stream, ranks that queue two groups' calls in different orders would wait for each other.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap, const NcclOptions& options);

}  // namespace weft
