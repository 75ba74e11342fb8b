#include "parallel/node_exchange.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>

#include "core/error.h"

namespace weft {

struct alignas(64) NodeExchange::Slot {
  std::atomic<uint64_t> exchange;
  CallSignature call;
  alignas(64) std::byte payload[kSlotBytes];
};

namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

void* map(int descriptor, size_t bytes) {
  void* region = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  return region == MAP_FAILED ? nullptr : region;
}

}  // namespace

size_t NodeExchange::region_bytes(int size) {
  return 2 * sizeof(Slot) * static_cast<size_t>(size);
}

std::unique_ptr<NodeExchange> NodeExchange::create(const std::string& name, int size) {
  static_assert(std::atomic<uint64_t>::is_always_lock_free && std::is_trivially_copyable_v<CallSignature>);
  const int descriptor = shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) return nullptr;
  // Reserves the pages: a full /dev/shm (64 MB in a container) must be an answer here, not SIGBUS at the first touch.
  if (posix_fallocate(descriptor, 0, static_cast<off_t>(region_bytes(size))) != 0) {
    close(descriptor);
    return nullptr;
  }
  void* region = map(descriptor, region_bytes(size));
  return region ? std::unique_ptr<NodeExchange>(new NodeExchange(region, 0, size)) : nullptr;
}

std::unique_ptr<NodeExchange> NodeExchange::open(const std::string& name, int rank, int size) {
  const int descriptor = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (descriptor < 0) return nullptr;
  void* region = map(descriptor, region_bytes(size));
  return region ? std::unique_ptr<NodeExchange>(new NodeExchange(region, rank, size)) : nullptr;
}

void NodeExchange::unlink(const std::string& name) {
  shm_unlink(name.c_str());
}

NodeExchange::NodeExchange(void* region, int rank, int size)
    : region_(region),
      rank_(rank),
      size_(size),
      // Where ranks share cores, to spin is to keep the awaited rank from running.
      num_spins_(size <= sysconf(_SC_NPROCESSORS_ONLN) ? 2000 : 0) {}

NodeExchange::~NodeExchange() {
  munmap(region_, region_bytes(size_));
}

NodeExchange::Slot& NodeExchange::slot(int rank) const {
  return static_cast<Slot*>(region_)[2 * static_cast<uint64_t>(rank) + exchange_ % 2];
}

const std::byte* NodeExchange::payload(int rank) const {
  return slot(rank).payload;
}

void NodeExchange::show(const CallSignature& call,
                        const void* data,
                        size_t bytes,
                        const std::function<void()>& while_waiting) {
  WEFT_ASSERT(bytes <= kSlotBytes);
  ++exchange_;
  Slot& own = slot(rank_);
  own.call = call;
  if (data != nullptr && bytes > 0) std::memcpy(own.payload, data, bytes);
  own.exchange.store(exchange_, std::memory_order_release);
  for (int other = 0; other < size_; ++other) {
    if (other != rank_) wait_for(other, while_waiting);
  }
  for (int other = 1; other < size_; ++other) {
    if (slot(other).call == slot(0).call) continue;
    throw Error(ExitCode::communication, describe_mismatch(0, slot(0).call, other, slot(other).call));
  }
}

void NodeExchange::wait_for(int rank, const std::function<void()>& while_waiting) const {
  using Clock = std::chrono::steady_clock;
  // Ranks that compute alike arrive within microseconds; after that somebody else may need this core, and a rank that
  // waits for the user's next question should cost nothing.
  constexpr auto kYieldFor = std::chrono::milliseconds(20);
  constexpr auto kShortSleep = std::chrono::microseconds(50);
  constexpr auto kShortSleepFor = std::chrono::milliseconds(500);
  constexpr auto kLongSleep = std::chrono::milliseconds(2);

  const std::atomic<uint64_t>& shown = slot(rank).exchange;
  for (int spin = 0; spin < num_spins_; ++spin) {
    if (shown.load(std::memory_order_acquire) == exchange_) return;
    relax();
  }
  const Clock::time_point start = Clock::now();
  while (shown.load(std::memory_order_acquire) != exchange_) {
    while_waiting();
    const Clock::duration waited = Clock::now() - start;
    if (waited < kYieldFor) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(waited < kShortSleepFor ? Clock::duration(kShortSleep) : Clock::duration(kLongSleep));
    }
  }
}

}  // namespace weft
