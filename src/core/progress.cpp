#include "core/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/log.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFirstDraw = std::chrono::milliseconds(500);
constexpr auto kTerminalPeriod = std::chrono::milliseconds(100);
constexpr auto kPlainPeriod = std::chrono::seconds(5);
constexpr int kBarWidth = 30;

}  // namespace

Progress::Progress(std::string label, int64_t total_bytes, bool visible)
    : label_(std::move(label)),
      total_(std::max<int64_t>(total_bytes, 1)),
      visible_(visible && log::enabled(log::Level::info)),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      next_draw_(start_ + kFirstDraw) {}

Progress::~Progress() {
  if (drawn_) draw(true);
}

void Progress::add(int64_t bytes) {
  done_.fetch_add(bytes, std::memory_order_relaxed);
  if (!visible_ || Clock::now() < start_ + kFirstDraw) return;
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || Clock::now() < next_draw_) return;
  next_draw_ = Clock::now() + (terminal_ ? Clock::duration(kTerminalPeriod) : Clock::duration(kPlainPeriod));
  draw(false);
}

void Progress::draw(bool final) {
  drawn_ = true;
  double done = static_cast<double>(done_.load());
  double fraction = std::min(1.0, done / static_cast<double>(total_));
  double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  std::string line = fmt::format("{} {:5.1f}% {:.2f}/{:.2f} GB, {:.2f} GB/s",
                                 label_,
                                 fraction * 100,
                                 done / 1e9,
                                 total_ / 1e9,
                                 done / 1e9 / seconds);
  if (terminal_) {
    int filled = static_cast<int>(fraction * kBarWidth);
    std::string bar =
        std::string(static_cast<size_t>(filled), '#') + std::string(static_cast<size_t>(kBarWidth - filled), '.');
    fmt::print(stderr, "\r[{}] {}\x1b[K{}", bar, line, final ? "\n" : "");
  } else {
    fmt::print(stderr, "weft: {}\n", line);
  }
  std::fflush(stderr);
}

}  // namespace weft
