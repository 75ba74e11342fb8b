#include "launcher/interrupt.h"

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <ctime>

#include "parallel/communicator.h"

namespace weft {

namespace {

// A signal handler reaches nothing but static storage.
std::atomic<bool> interrupted{false};
std::atomic<int64_t> interrupted_at_ms{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t now_ms() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

void remember_signal(int) {
  if (!interrupted.exchange(true, std::memory_order_relaxed)) interrupted_at_ms.store(now_ms());
}

/// A launcher and a scheduler may both pass on one wish: only a later Ctrl-C insists.
void remember_or_insist(int signal_number) {
  constexpr int64_t kInsistsAfterMs = 1000;
  bool insists = signal_number == SIGINT && interrupted.load() && now_ms() - interrupted_at_ms.load() > kInsistsAfterMs;
  remember_signal(signal_number);
  if (!insists) return;
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void set_handler(void (*handler)(int), bool with_terminate) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = 0;  // without SA_RESTART, so that waiting for input ends too
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
  if (with_terminate) sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

InterruptFlag::InterruptFlag(bool once, bool with_terminate) : with_terminate_(with_terminate) {
  clear();
  set_handler(once ? remember_or_insist : remember_signal, with_terminate);
}

InterruptFlag::~InterruptFlag() {
  set_handler(SIG_DFL, with_terminate_);
}

bool InterruptFlag::is_set() const {
  return interrupted.load(std::memory_order_relaxed);
}

void InterruptFlag::clear() {
  interrupted.store(false, std::memory_order_relaxed);
}

bool InterruptFlag::is_set_on_rank_zero(const Context& context) const {
  Communicator* ranks = context.tensor_parallel;
  if (!ranks) return is_set();
  Tensor flag = context.host_empty({1}, DType::u8, MemoryTag::comm);
  flag.data<uint8_t>()[0] = is_set() ? 1 : 0;
  ranks->broadcast(flag, 0);
  return flag.data<uint8_t>()[0] != 0;
}

}  // namespace weft
