// The stand-in's part that moves data between ranks, when a stream gets there.
#pragma once

#include <nccl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/dtype.h"
#include "parallel/fake_device.h"

namespace weft::stand_in {

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

inline int number_from(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

inline size_t type_bytes(ncclDataType_t type) {
  if (type == ncclUint8) return 1;
  if (type == ncclBfloat16 || type == ncclFloat16) return 2;
  return type == ncclInt64 || type == ncclFloat64 ? 8 : 4;
}

inline bool is_device(const void* pointer) {
  return (reinterpret_cast<uintptr_t>(pointer) & kFakeDeviceBit) != 0;
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

inline ncclResult_t reduce(
    ncclDataType_t type, ncclRedOp_t op, const Region& region, int size, size_t count, std::byte* to) {
  if (type == ncclFloat32) return reduce<float, float>(op, region, size, count, to), ncclSuccess;
  if (type == ncclBfloat16) return reduce<bfloat16, float>(op, region, size, count, to), ncclSuccess;
  if (type == ncclFloat64) return reduce<double, double>(op, region, size, count, to), ncclSuccess;
  if (type == ncclInt32) return reduce<int32_t, int32_t>(op, region, size, count, to), ncclSuccess;
  if (type == ncclInt64) return reduce<int64_t, int64_t>(op, region, size, count, to), ncclSuccess;
  return ncclInvalidArgument;
}

inline std::mutex last_error_mutex;
inline std::string last_error;

inline void set_last_error(const std::string& text) {
  std::lock_guard lock(last_error_mutex);
  last_error = text;
}

/// What moves the data: lives as long as something on a stream needs it.
struct Mover {
  int rank = 0;
  int size = 1;
  Region* region = nullptr;
  std::atomic<int> error{ncclSuccess};
  std::atomic<bool> aborted{false};
  std::atomic<bool> is_moving{false};
  std::atomic<int> num_unfinished{0};
  uint64_t num_meetings = 0;
  std::chrono::milliseconds delay{number_from("WEFT_STAND_IN_DELAY_MS")};

  ~Mover() {
    if (region != nullptr) munmap(region, sizeof(Region));
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

  bool pass(std::chrono::milliseconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    return wait_until([end] { return std::chrono::steady_clock::now() >= end; });
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
};

/// A call's buffers on the device and how it moves what is in them, by host addresses.
struct Work {
  const void* from = nullptr;
  size_t from_bytes = 0;
  void* to = nullptr;
  size_t to_bytes = 0;
  std::function<ncclResult_t(Mover& mover, const std::byte* from, std::byte* to)> move;
};

inline ncclResult_t move_late(Mover& mover, const Work& work) {
  const auto* from = real_address<const std::byte>(work.from);
  auto* to = real_address<std::byte>(work.to);
  std::vector<std::byte> saved;
  if (from == to) {
    saved.assign(from, from + work.from_bytes);
    from = saved.data();
  }
  std::memset(to, 0xFF, work.to_bytes);
  if (!mover.pass(mover.delay)) return ncclRemoteError;
  return work.move(mover, from, to);
}

inline void do_work(Mover& mover, const Work& work) {
  ncclResult_t result = ncclInternalError;
  if (mover.is_moving.exchange(true)) {
    set_last_error("two calls of a communicator at a time");
  } else if (mover.delay.count() > 0 && work.to != nullptr) {
    result = move_late(mover, work);
  } else {
    result = work.move(mover, real_address<const std::byte>(work.from), real_address<std::byte>(work.to));
  }
  mover.is_moving = false;
  if (result != ncclSuccess) mover.error = result;
  --mover.num_unfinished;
}

}  // namespace weft::stand_in
