#include "launcher/interrupt.h"

#include <signal.h>

#include <atomic>

#include "parallel/communicator.h"

namespace weft {

namespace {

// A signal handler reaches nothing but static storage.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void remember_signal(int) {
  interrupted.store(true, std::memory_order_relaxed);
}

void set_handler(void (*handler)(int), int flags, bool with_terminate) {
  struct sigaction action = {};
  action.sa_handler = handler;
  // Without SA_RESTART, so that waiting for input ends too.
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
  if (with_terminate) sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

InterruptFlag::InterruptFlag(bool once, bool with_terminate) : with_terminate_(with_terminate) {
  clear();
  set_handler(remember_signal, once ? static_cast<int>(SA_RESETHAND) : 0, with_terminate);
}

InterruptFlag::~InterruptFlag() {
  set_handler(SIG_DFL, 0, with_terminate_);
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
  Tensor flag = context.empty({1}, DType::u8, MemoryTag::comm);
  flag.data<uint8_t>()[0] = is_set() ? 1 : 0;
  ranks->broadcast(flag, 0);
  return flag.data<uint8_t>()[0] != 0;
}

}  // namespace weft
