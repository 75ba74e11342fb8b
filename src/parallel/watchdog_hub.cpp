#include "parallel/watchdog_hub.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "parallel/launcher_end.h"

namespace weft {
namespace {

constexpr int kPollMs = 200;
constexpr size_t kMaxNewcomers = 64;
constexpr int kCommunication = static_cast<int>(ExitCode::communication);

std::string random_token() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

}  // namespace

Verdict judge(const std::map<int, Outcome>& outcomes, int num_ranks) {
  auto cause = outcomes.end();
  for (auto it = outcomes.begin(); it != outcomes.end(); ++it) {
    if (it->second.code == 0) continue;
    const bool is_better =
        cause == outcomes.end() || (cause->second.code == kCommunication && it->second.code != kCommunication);
    if (is_better) cause = it;
  }
  if (cause == outcomes.end()) return {};
  const auto& [rank, outcome] = *cause;
  if (outcome.message.empty()) return {.code = outcome.code, .line = {}};
  const auto num_alike = std::count_if(outcomes.begin(), outcomes.end(), [&outcome = outcome](const auto& other) {
    return other.second.code == outcome.code && other.second.message == outcome.message;
  });
  if (num_alike == num_ranks) return {.code = outcome.code, .line = outcome.message};
  return {.code = outcome.code, .line = fmt::format("rank {}: {}", rank, outcome.message)};
}

std::string describe_end(const std::string& op, int64_t step, int64_t saved_step) {
  std::string text = fmt::format("last operation {}", op);
  if (step > 0) text += fmt::format(", after step {}", step);
  text += "; ending the job";
  if (saved_step >= 0) text += fmt::format("; started again it goes on from the checkpoint of step {}", saved_step);
  return text;
}

void print_error_line(const std::string& text) {
  const std::string line = fmt::format("weft: error: {}\n", text);
  // There is nobody to tell if this fails.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

LoopClock::Clock::duration LoopClock::tick() {
  constexpr Clock::duration kAway = std::chrono::seconds(2);
  const Clock::time_point now = Clock::now();
  const Clock::duration gap = now - std::exchange(last_, now);
  if (gap <= kAway) return Clock::duration::zero();
  back_ = now;
  return gap;
}

Watchdog::Hub::Hub(int num_ranks,
                   bool one_host,
                   std::shared_ptr<const Activity> activity,
                   const WatchdogOptions& options)
    : num_ranks_(num_ranks),
      one_host_(one_host),
      activity_(std::move(activity)),
      options_(options),
      token_(random_token()),
      listener_(one_host),
      thread_([this] { run(); }) {}

Watchdog::Hub::~Hub() {
  // Someone never arrived: the start failed, and there is nothing to wait for.
  abandoned_ = true;
  thread_.join();
}

void Watchdog::Hub::run() {
  const auto all_gone = [this] {
    return static_cast<int>(members_.size()) == num_ranks_ &&
           std::all_of(members_.begin(), members_.end(), [](const auto& entry) { return entry.second.said_goodbye; });
  };
  while (!all_gone()) {
    if (abandoned_ && static_cast<int>(members_.size()) < num_ranks_) return;
    wait_for_input();
    const Clock::duration away = loop_clock_.tick();
    for (auto& [rank, member] : members_) member.last_heard += away;
    accept_newcomers();
    for (auto& [rank, member] : members_) hear(rank, member);
    check_heartbeats();
    check_outcomes();
  }
  send_all("farewell");
}

void Watchdog::Hub::wait_for_input() const {
  std::vector<pollfd> sources{{.fd = listener_.descriptor(), .events = POLLIN, .revents = 0}};
  for (const Member& newcomer : newcomers_) sources.push_back({newcomer.socket.descriptor(), POLLIN, 0});
  for (const auto& [rank, member] : members_) {
    sources.push_back({member.socket.descriptor(), POLLIN, 0});
  }
  poll(sources.data(), sources.size(), kPollMs);
}

/// Whoever can reach the port may connect: only a hello with this job's token makes a member, and it has to come soon.
void Watchdog::Hub::accept_newcomers() {
  constexpr auto kHelloWithin = std::chrono::seconds(5);
  while (auto connection = listener_.accept()) {
    if (newcomers_.size() < kMaxNewcomers) {
      newcomers_.push_back({.socket = std::move(*connection), .last_heard = Clock::now(), .host = {}, .op = {}});
    }
  }
  std::vector<Member> waiting;
  for (Member& newcomer : newcomers_) {
    const bool is_open = newcomer.socket.receive();
    if (auto line = newcomer.socket.next_line()) {
      greet(std::move(newcomer), *line);
    } else if (is_open && Clock::now() - newcomer.last_heard < kHelloWithin) {
      waiting.push_back(std::move(newcomer));
    }
  }
  newcomers_ = std::move(waiting);
}

void Watchdog::Hub::greet(Member newcomer, const std::string& line) {
  std::istringstream words(line);
  std::string hello;
  std::string token;
  int rank = -1;
  words >> hello >> token >> rank >> newcomer.pid >> newcomer.host;
  if (!words || hello != "hello" || token != token_ || rank < 0 || rank >= num_ranks_ || members_.count(rank) != 0)
    return;
  newcomer.op = "start-up";
  newcomer.last_heard = Clock::now();
  Member& member = members_.emplace(rank, std::move(newcomer)).first->second;
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  member.socket.send(fmt::format("welcome {} {}", getpid(), host.data()));
}

void Watchdog::Hub::hear(int rank, Member& member) {
  const bool is_open = member.socket.receive();
  while (auto line = member.socket.next_line()) handle(rank, member, *line);
  if (!is_open) end_job_without(rank, member, "was lost: its process has ended");
}

void Watchdog::Hub::handle(int rank, Member& member, const std::string& line) {
  member.last_heard = Clock::now();
  std::istringstream words(line);
  std::string kind;
  words >> kind;
  if (kind == "beat") {
    words >> member.step >> std::ws;
    std::getline(words, member.op);
    member.socket.send(fmt::format("echo {} {}", activity_->step(), activity_->op()));
  } else if (kind == "finish") {
    Outcome outcome;
    words >> outcome.code >> std::ws;
    std::getline(words, outcome.message);
    if (outcome.code != 0 && !first_failure_) first_failure_ = Clock::now();
    outcomes_.emplace(rank, std::move(outcome));
  } else if (kind == "goodbye") {
    member.said_goodbye = true;
    outcomes_.emplace(rank, Outcome{});
  }
}

void Watchdog::Hub::check_heartbeats() {
  for (auto& [rank, member] : members_) {
    if (loop_clock_.now() - member.last_heard <= options_.deadline) continue;
    end_job_without(
        rank, member, fmt::format("is frozen: it has not answered for {:.0f} s", options_.deadline.count() / 1000.0));
  }
}

void Watchdog::Hub::check_outcomes() {
  if (verdict_sent_) return;
  if (static_cast<int>(outcomes_.size()) == num_ranks_) {
    const Verdict verdict = judge(outcomes_, num_ranks_);
    if (!verdict.line.empty()) print_error_line(verdict.line);
    send_all(fmt::format("verdict {}", verdict.code));
    verdict_sent_ = true;
  } else if (first_failure_ && Clock::now() - *first_failure_ > options_.grace) {
    end_job(judge(outcomes_, num_ranks_));
  }
}

void Watchdog::Hub::send_all(const std::string& line) {
  for (auto& [rank, member] : members_) {
    member.socket.send(line);
  }
}

void Watchdog::Hub::end_job(const Verdict& verdict) {
  if (!verdict.line.empty()) print_error_line(verdict.line);
  send_all(fmt::format("end {}", verdict.code));
  // The others leave first, each with this code; mpirun would turn them out with its own.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  _exit(verdict.code);
}

void Watchdog::Hub::end_job_without(int rank, const Member& member, const std::string& what) {
  if (!one_host_) end_launcher_after(kLauncherPatience);
  // A failure that was reported before is the cause, unless it is about the lost peer.
  const Verdict verdict = judge(outcomes_, num_ranks_);
  if (verdict.code != 0 && verdict.code != kCommunication) end_job(verdict);
  if (loop_clock_.was_away()) end_job({.code = kCommunication, .line = {}});
  end_job({.code = kCommunication,
           .line = fmt::format("rank {} (host {}, process {}) {}; {}",
                               rank,
                               member.host,
                               member.pid,
                               what,
                               describe_end(member.op, member.step, activity_->saved_step()))});
}

}  // namespace weft
