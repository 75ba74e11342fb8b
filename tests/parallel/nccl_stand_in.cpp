// A library with the functions of NCCL that Weft calls, for tests on machines without GPUs: the "device" memory is that
// of fake_device.h, streams are those of fake_streams.h, and the ranks are processes or threads of one machine that
// meet in shared memory. As with non-blocking communicators of the real one, a call returns ncclInProgress and is
// queued by another thread; its data moves when the stream gets there. Two calls of a communicator at a time are an
// error, where NCCL would put them in order. Sums are exact where NCCL rounds at every rank, and NaN wins.
//
// Environment variables, read when a communicator is made:
//   WEFT_STAND_IN_FAIL_AT   the n-th call of the communicator fails, with a message of two lines
//   WEFT_STAND_IN_LATE_AT   the n-th call succeeds, and fails 300 ms later
//   WEFT_STAND_IN_HANG_AT   the n-th call is never queued
//   WEFT_STAND_IN_STUCK_AT  the n-th call is queued and never ends
//   WEFT_STAND_IN_DELAY_MS  every call takes so much longer on its stream; till then its output is NaN
//   WEFT_STAND_IN_START_MS  the communicator starts that much later
//   WEFT_STAND_IN_VERSION   what ncclGetVersion says
#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/fake_streams.h"
#include "parallel/nccl_stand_in_mover.h"

using namespace weft::stand_in;

struct ncclComm {
  std::shared_ptr<Mover> mover = std::make_shared<Mover>();
  std::string name;
  std::atomic<int> state{ncclInProgress};
  int num_calls = 0;
  int fail_at = number_from("WEFT_STAND_IN_FAIL_AT");
  int late_at = number_from("WEFT_STAND_IN_LATE_AT");
  int hang_at = number_from("WEFT_STAND_IN_HANG_AT");
  int stuck_at = number_from("WEFT_STAND_IN_STUCK_AT");
  std::mutex mutex;
  std::condition_variable changed;
  std::function<ncclResult_t()> job;
  bool ends = false;
  std::thread thread;

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return job || ends; });
      if (!job) return;
      auto current = std::exchange(job, nullptr);
      lock.unlock();
      const ncclResult_t result = current();
      lock.lock();
      state = result;
      if (num_calls == 0 || num_calls != late_at) continue;
      if (changed.wait_for(lock, std::chrono::milliseconds(300), [this] { return job || ends; })) continue;
      set_last_error("the network is down");
      state = ncclRemoteError;
    }
  }

  ncclResult_t start(std::function<ncclResult_t()> next) {
    std::lock_guard lock(mutex);
    state = ncclInProgress;
    job = std::move(next);
    changed.notify_one();
    return ncclInProgress;
  }

  /// A call of the user's.
  ncclResult_t submit(cudaStream_t stream, Work work) {
    if (state != ncclSuccess) {
      set_last_error("the communicator is not ready for a call");
      return ncclInvalidArgument;
    }
    if (stream == nullptr || !(work.from == nullptr || is_device(work.from)) ||
        !(work.to == nullptr || is_device(work.to))) {
      set_last_error("a stream or buffer is not the device's");
      return ncclInvalidArgument;
    }
    std::unique_lock lock(mutex);
    ++num_calls;
    lock.unlock();
    if (num_calls == hang_at) {
      state = ncclInProgress;
      return ncclInProgress;
    }
    if (num_calls == fail_at) {
      return start([] {
        set_last_error("injected\nby the test\n");
        return ncclRemoteError;
      });
    }
    if (num_calls == stuck_at) {
      work.move = [](const Mover& stuck, const std::byte*, std::byte*) {
        stuck.wait_until([] { return false; });
        return ncclRemoteError;
      };
    }
    ++mover->num_unfinished;
    return start([mover = mover, stream, work] {
      reinterpret_cast<weft::FakeStream*>(stream)->enqueue([mover, work] { do_work(*mover, work); });
      return ncclSuccess;
    });
  }

  ncclResult_t open_region() {
    if (!mover->pass(std::chrono::milliseconds(number_from("WEFT_STAND_IN_START_MS")))) return ncclRemoteError;
    const int descriptor = shm_open(name.c_str(), O_RDWR, 0600);
    if (descriptor < 0) return ncclSystemError;
    void* mapped = mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED) return ncclSystemError;
    mover->region = static_cast<Region*>(mapped);
    return mover->meet() ? ncclSuccess : ncclRemoteError;
  }

  ~ncclComm() {
    {
      std::lock_guard lock(mutex);
      ends = true;
      changed.notify_one();
    }
    thread.join();
    if (mover->rank == 0) shm_unlink(name.c_str());
  }
};

namespace {

ncclResult_t result_of(bool has_ended) {
  return has_ended ? ncclSuccess : ncclRemoteError;
}

/// Calls visit(offset, bytes) for pieces that fit a slot, until one returns false.
template <typename Visit>
bool for_each_chunk(size_t bytes, Visit visit) {
  for (size_t offset = 0; offset < bytes; offset += kChunk) {
    if (!visit(offset, std::min(kChunk, bytes - offset))) return false;
  }
  return true;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  const int wanted = number_from("WEFT_STAND_IN_VERSION");
  *version = wanted != 0 ? wanted : NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> num_ids{0};
  std::snprintf(id->internal, sizeof(id->internal), "/weft-stand-in-%d-%d", getpid(), ++num_ids);
  const int descriptor = shm_open(id->internal, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (descriptor < 0) return ncclSystemError;
  const int status = posix_fallocate(descriptor, 0, sizeof(Region));
  close(descriptor);
  return status == 0 ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (size > kMaxRanks || config->blocking != 0) return ncclInvalidArgument;
  *comm = new ncclComm;
  (*comm)->mover->rank = rank;
  (*comm)->mover->size = size;
  (*comm)->name = id.internal;
  (*comm)->thread = std::thread([made = *comm] { made->run(); });
  return (*comm)->start([made = *comm] { return made->open_region(); });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const int error = comm->mover->error;
  *state = static_cast<ncclResult_t>(error != ncclSuccess ? error : comm->state.load());
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm->state != ncclSuccess) return ncclInvalidArgument;
  return comm->start([mover = comm->mover] {
    return mover->wait_until([&] { return mover->num_unfinished == 0; }) ? ncclSuccess : ncclRemoteError;
  });
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->mover->aborted = true;
  delete comm;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "error of the stand-in";
}

const char* ncclGetLastError(ncclComm_t /*comm*/) {
  thread_local std::string copy;
  std::lock_guard lock(last_error_mutex);
  copy = last_error;
  return copy.c_str();
}

ncclResult_t ncclAllReduce(const void* from,
                           void* to,
                           size_t count,
                           ncclDataType_t type,
                           ncclRedOp_t op,
                           ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t all = count * type_bytes(type);
  const auto move = [=](Mover& mover, const std::byte* source, std::byte* target) {
    ncclResult_t result = ncclSuccess;
    const bool has_ended = for_each_chunk(all, [&](size_t offset, size_t bytes) {
      return mover.exchange(source + offset, bytes, [&] {
        result = reduce(type, op, *mover.region, mover.size, bytes / type_bytes(type), target + offset);
      });
    });
    return has_ended ? result : ncclRemoteError;
  };
  return comm->submit(stream, {from, all, to, all, move});
}

ncclResult_t ncclAllGather(
    const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  const size_t part = count * type_bytes(type);
  const auto move = [=](Mover& mover, const std::byte* source, std::byte* target) {
    return result_of(for_each_chunk(part, [&](size_t offset, size_t bytes) {
      return mover.exchange(source + offset, bytes, [&] {
        for (int rank = 0; rank < mover.size; ++rank) {
          std::memcpy(target + static_cast<size_t>(rank) * part + offset, mover.region->slots[rank], bytes);
        }
      });
    }));
  };
  return comm->submit(stream, {from, part, to, part * static_cast<size_t>(comm->mover->size), move});
}

ncclResult_t ncclReduceScatter(const void* from,
                               void* to,
                               size_t count,
                               ncclDataType_t type,
                               ncclRedOp_t op,
                               ncclComm_t comm,
                               cudaStream_t stream) {
  const size_t part = count * type_bytes(type);
  const auto move = [=](Mover& mover, const std::byte* source, std::byte* target) {
    ncclResult_t result = ncclSuccess;
    bool has_ended = true;
    for (int rank = 0; rank < mover.size && has_ended; ++rank) {
      has_ended = for_each_chunk(part, [&](size_t offset, size_t bytes) {
        return mover.exchange(source + static_cast<size_t>(rank) * part + offset, bytes, [&] {
          if (rank != mover.rank) return;
          result = reduce(type, op, *mover.region, mover.size, bytes / type_bytes(type), target + offset);
        });
      });
    }
    return has_ended ? result : ncclRemoteError;
  };
  return comm->submit(stream, {from, part * static_cast<size_t>(comm->mover->size), to, part, move});
}

ncclResult_t ncclBroadcast(
    const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
  const size_t all = count * type_bytes(type);
  const auto move = [=](Mover& mover, const std::byte* source, std::byte* target) {
    return result_of(for_each_chunk(all, [&](size_t offset, size_t bytes) {
      return mover.exchange(mover.rank == root ? source + offset : nullptr, bytes, [&] {
        std::memcpy(target + offset, mover.region->slots[root], bytes);
      });
    }));
  };
  return comm->submit(stream, {from, all, to, all, move});
}

ncclResult_t ncclSend(
    const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  const size_t all = count * type_bytes(type);
  const auto move = [=](Mover& mover, const std::byte* source, std::byte* /*target*/) {
    Mailbox& mailbox = mover.region->mailboxes[mover.rank][peer];
    return result_of(for_each_chunk(all, [&](size_t offset, size_t bytes) {
      if (!mover.wait_until([&] { return mailbox.num_written == mailbox.num_read; })) return false;
      std::memcpy(mailbox.data, source + offset, bytes);
      ++mailbox.num_written;
      return true;
    }));
  };
  return comm->submit(stream, {from, all, nullptr, 0, move});
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  const size_t all = count * type_bytes(type);
  const auto move = [=](Mover& mover, const std::byte* /*source*/, std::byte* target) {
    Mailbox& mailbox = mover.region->mailboxes[peer][mover.rank];
    return result_of(for_each_chunk(all, [&](size_t offset, size_t bytes) {
      if (!mover.wait_until([&] { return mailbox.num_written > mailbox.num_read; })) return false;
      std::memcpy(target + offset, mailbox.data, bytes);
      ++mailbox.num_read;
      return true;
    }));
  };
  return comm->submit(stream, {nullptr, 0, to, all, move});
}

}  // extern "C"
