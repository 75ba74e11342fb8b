// A library with the functions of NCCL that Weft calls, for tests on machines without GPUs: the "device" memory is that
// of fake_device.h, and the ranks are processes or threads of one machine that meet in shared memory. As with
// non-blocking communicators of the real one, a call returns ncclInProgress and is done by another thread; unlike it, a
// call is settled only when its data has moved. Sums are exact where NCCL rounds at every rank, and NaN wins.
//
// Environment variables, read when a communicator is made:
//   WEFT_STAND_IN_FAIL_AT   the n-th call of the communicator fails, with a message of two lines
//   WEFT_STAND_IN_LATE_AT   the n-th call succeeds, and fails 300 ms later
//   WEFT_STAND_IN_HANG_AT   the n-th call never ends
//   WEFT_STAND_IN_START_MS  the communicator starts that much later
//   WEFT_STAND_IN_VERSION   what ncclGetVersion says
#include <fcntl.h>
#include <nccl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/dtype.h"
#include "parallel/fake_device.h"

namespace {

constexpr int kMaxRanks = 4;
constexpr size_t kChunk = size_t{64} << 10;

struct Mailbox {
  std::atomic<uint64_t> num_written;
  std::atomic<uint64_t> num_read;
  std::byte data[kChunk];
};

/// What the ranks share; zero when made.
struct Region {
  std::array<std::atomic<uint64_t>, kMaxRanks> num_meetings;
  std::byte slots[kMaxRanks][kChunk];
  Mailbox mailboxes[kMaxRanks][kMaxRanks];  // by sender, then receiver
};

int number_from(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

size_t type_bytes(ncclDataType_t type) {
  if (type == ncclUint8) return 1;
  if (type == ncclBfloat16 || type == ncclFloat16) return 2;
  return type == ncclInt64 || type == ncclFloat64 ? 8 : 4;
}

bool is_device(const void* pointer) {
  return (reinterpret_cast<uintptr_t>(pointer) & weft::kFakeDeviceBit) != 0;
}

std::byte* real(const void* pointer) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(pointer) & ~weft::kFakeDeviceBit);
}

template <typename T>
T combine(ncclRedOp_t op, T left, T right) {
  if (op == ncclSum) return left + right;
  if (right != right) return right;
  return (op == ncclMax ? left < right : right < left) ? right : left;
}

template <typename T, typename Accumulator>
void reduce(ncclRedOp_t op, const Region& region, int size, size_t count, std::byte* to) {
  for (size_t i = 0; i < count; ++i) {
    auto at = [&](int rank) {
      T value;
      std::memcpy(&value, region.slots[rank] + i * sizeof(T), sizeof(T));
      return static_cast<Accumulator>(value);
    };
    Accumulator sum = at(0);
    for (int rank = 1; rank < size; ++rank) sum = combine(op, sum, at(rank));
    const T rounded = static_cast<T>(sum);
    std::memcpy(to + i * sizeof(T), &rounded, sizeof(T));
  }
}

ncclResult_t reduce(ncclDataType_t type, ncclRedOp_t op, const Region& region, int size, size_t count, std::byte* to) {
  if (type == ncclFloat32) return reduce<float, float>(op, region, size, count, to), ncclSuccess;
  if (type == ncclBfloat16) return reduce<weft::bfloat16, float>(op, region, size, count, to), ncclSuccess;
  if (type == ncclFloat64) return reduce<double, double>(op, region, size, count, to), ncclSuccess;
  if (type == ncclInt32) return reduce<int32_t, int32_t>(op, region, size, count, to), ncclSuccess;
  if (type == ncclInt64) return reduce<int64_t, int64_t>(op, region, size, count, to), ncclSuccess;
  return ncclInvalidArgument;
}

std::mutex last_error_mutex;
std::string last_error;

void set_last_error(const std::string& text) {
  std::lock_guard lock(last_error_mutex);
  last_error = text;
}

}  // namespace

struct ncclComm {
  int rank = 0;
  int size = 1;
  std::string name;
  Region* region = nullptr;
  std::atomic<int> state{ncclInProgress};
  std::atomic<bool> aborted{false};
  uint64_t num_meetings = 0;
  int num_calls = 0;
  int fail_at = number_from("WEFT_STAND_IN_FAIL_AT");
  int late_at = number_from("WEFT_STAND_IN_LATE_AT");
  int hang_at = number_from("WEFT_STAND_IN_HANG_AT");
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
  ncclResult_t submit(cudaStream_t stream,
                      std::initializer_list<const void*> buffers,
                      std::function<ncclResult_t()> next) {
    if (state != ncclSuccess) {
      set_last_error("the communicator is not ready for a call");
      return ncclInvalidArgument;
    }
    if (stream == nullptr || !std::all_of(buffers.begin(), buffers.end(), is_device)) {
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
    return start(std::move(next));
  }

  template <typename Ready>
  bool wait_until(Ready ready) const {
    for (int round = 0; !ready(); ++round) {
      if (aborted) return false;
      if (round < 200) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    }
    return true;
  }

  bool meet() {
    ++num_meetings;
    region->num_meetings[static_cast<size_t>(rank)] = num_meetings;
    return wait_until([this] {
      return std::all_of(region->num_meetings.begin(), region->num_meetings.begin() + size, [this](const auto& other) {
        return other >= num_meetings;
      });
    });
  }

  /// Every rank shows `from`; then `take` reads the slots.
  template <typename Take>
  bool exchange(const std::byte* from, size_t bytes, Take take) {
    if (from != nullptr) std::memcpy(region->slots[rank], from, bytes);
    if (!meet()) return false;
    take();
    return meet();
  }

  ncclResult_t open_region() {
    const int delay = number_from("WEFT_STAND_IN_START_MS");
    const auto begin = std::chrono::steady_clock::now();
    const auto is_time = [&] { return std::chrono::steady_clock::now() - begin >= std::chrono::milliseconds(delay); };
    if (!wait_until(is_time)) return ncclRemoteError;
    const int descriptor = shm_open(name.c_str(), O_RDWR, 0600);
    if (descriptor < 0) return ncclSystemError;
    void* mapped = mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED) return ncclSystemError;
    region = static_cast<Region*>(mapped);
    return meet() ? ncclSuccess : ncclRemoteError;
  }

  ~ncclComm() {
    {
      std::lock_guard lock(mutex);
      ends = true;
      changed.notify_one();
    }
    thread.join();
    if (region != nullptr) munmap(region, sizeof(Region));
    if (rank == 0) shm_unlink(name.c_str());
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
  (*comm)->rank = rank;
  (*comm)->size = size;
  (*comm)->name = id.internal;
  (*comm)->thread = std::thread([made = *comm] { made->run(); });
  return (*comm)->start([made = *comm] { return made->open_region(); });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = static_cast<ncclResult_t>(comm->state.load());
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return comm->state == ncclSuccess ? comm->start([] { return ncclSuccess; }) : ncclInvalidArgument;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->aborted = true;
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
  return comm->submit(stream, {from, to}, [=] {
    ncclResult_t result = ncclSuccess;
    const bool has_ended = for_each_chunk(count * type_bytes(type), [&](size_t offset, size_t bytes) {
      return comm->exchange(real(from) + offset, bytes, [&] {
        result = reduce(type, op, *comm->region, comm->size, bytes / type_bytes(type), real(to) + offset);
      });
    });
    return has_ended ? result : ncclRemoteError;
  });
}

ncclResult_t ncclAllGather(
    const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  const size_t part = count * type_bytes(type);
  return comm->submit(stream, {from, to}, [=] {
    return result_of(for_each_chunk(part, [&](size_t offset, size_t bytes) {
      return comm->exchange(real(from) + offset, bytes, [&] {
        for (int rank = 0; rank < comm->size; ++rank) {
          std::memcpy(real(to) + static_cast<size_t>(rank) * part + offset, comm->region->slots[rank], bytes);
        }
      });
    }));
  });
}

ncclResult_t ncclReduceScatter(const void* from,
                               void* to,
                               size_t count,
                               ncclDataType_t type,
                               ncclRedOp_t op,
                               ncclComm_t comm,
                               cudaStream_t stream) {
  const size_t part = count * type_bytes(type);
  return comm->submit(stream, {from, to}, [=] {
    ncclResult_t result = ncclSuccess;
    bool has_ended = true;
    for (int rank = 0; rank < comm->size && has_ended; ++rank) {
      has_ended = for_each_chunk(part, [&](size_t offset, size_t bytes) {
        return comm->exchange(real(from) + static_cast<size_t>(rank) * part + offset, bytes, [&] {
          if (rank != comm->rank) return;
          result = reduce(type, op, *comm->region, comm->size, bytes / type_bytes(type), real(to) + offset);
        });
      });
    }
    return has_ended ? result : ncclRemoteError;
  });
}

ncclResult_t ncclBroadcast(
    const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
  return comm->submit(stream, {from, to}, [=] {
    return result_of(for_each_chunk(count * type_bytes(type), [&](size_t offset, size_t bytes) {
      return comm->exchange(comm->rank == root ? real(from) + offset : nullptr, bytes, [&] {
        std::memcpy(real(to) + offset, comm->region->slots[root], bytes);
      });
    }));
  });
}

ncclResult_t ncclSend(
    const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return comm->submit(stream, {from}, [=] {
    Mailbox& mailbox = comm->region->mailboxes[comm->rank][peer];
    return result_of(for_each_chunk(count * type_bytes(type), [&](size_t offset, size_t bytes) {
      if (!comm->wait_until([&] { return mailbox.num_written == mailbox.num_read; })) return false;
      std::memcpy(mailbox.data, real(from) + offset, bytes);
      ++mailbox.num_written;
      return true;
    }));
  });
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return comm->submit(stream, {to}, [=] {
    Mailbox& mailbox = comm->region->mailboxes[peer][comm->rank];
    return result_of(for_each_chunk(count * type_bytes(type), [&](size_t offset, size_t bytes) {
      if (!comm->wait_until([&] { return mailbox.num_written > mailbox.num_read; })) return false;
      std::memcpy(real(to) + offset, mailbox.data, bytes);
      ++mailbox.num_read;
      return true;
    }));
  });
}

}  // extern "C"
