#include "parallel/watchdog.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <sstream>

#include "core/error.h"
#include "parallel/launcher_end.h"
#include "parallel/watchdog_hub.h"

namespace weft {
namespace {

constexpr int kCommunication = static_cast<int>(ExitCode::communication);
constexpr size_t kTextBytes = 1024;
constexpr size_t kMaxMessageBytes = 4000;

using Clock = std::chrono::steady_clock;

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

Tensor text_tensor(const std::string& text) {
  Tensor tensor = Tensor::zeros(make_cpu_allocator(), {static_cast<int64_t>(kTextBytes)}, DType::u8, MemoryTag::comm);
  std::memcpy(tensor.raw(), text.data(), std::min(text.size(), kTextBytes - 1));
  return tensor;
}

std::string text_of(const Tensor& tensor) {
  return static_cast<const char*>(tensor.raw());
}

bool all_on_one_host(Communicator& world) {
  Tensor own = text_tensor(host_name());
  Tensor all =
      Tensor::empty(make_cpu_allocator(), {world.size(), static_cast<int64_t>(kTextBytes)}, DType::u8, MemoryTag::comm);
  world.all_gather(own, all);
  for (int rank = 0; rank < world.size(); ++rank) {
    if (text_of(all.slice(rank, rank + 1)) != host_name()) return false;
  }
  return true;
}

/// A message in the protocol is one line.
std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() > kMaxMessageBytes) text.resize(kMaxMessageBytes);
  return text;
}

}  // namespace

/// A rank's own side: sends its heartbeat, and watches for rank 0's answers.
class Watchdog::Client {
 public:
  Client(int rank,
         bool one_host,
         LineSocket socket,
         std::shared_ptr<const Activity> activity,
         const WatchdogOptions& options)
      : rank_(rank),
        one_host_(one_host),
        activity_(std::move(activity)),
        options_(options),
        socket_(std::move(socket)),
        thread_([this] { run(); }) {}

  ~Client() {
    send("goodbye");
    // Ends at the hub's farewell.
    thread_.join();
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  int agree(int code, const std::string& message) {
    send(fmt::format("finish {} {}", code, one_line(message)));
    std::unique_lock lock(mutex_);
    verdict_arrived_.wait(lock, [this] { return verdict_.has_value(); });
    return *verdict_;
  }

 private:
  void send(const std::string& line) {
    std::unique_lock lock(mutex_);
    socket_.send(line);
  }

  void run() {
    Clock::time_point next_beat = Clock::now();
    last_echo_ = Clock::now();
    while (!heard_farewell_) {
      if (Clock::now() >= next_beat) {
        send(fmt::format("beat {} {}", activity_->step(), activity_->op()));
        next_beat = Clock::now() + options_.heartbeat;
      }
      wait_for_input();
      last_echo_ += loop_clock_.tick();
      hear();
    }
  }

  void wait_for_input() const {
    const auto timeout = std::min<std::chrono::milliseconds>(options_.heartbeat, std::chrono::milliseconds(200));
    pollfd source{socket_.descriptor(), POLLIN, 0};
    poll(&source, 1, static_cast<int>(timeout.count()));
  }

  void hear() {
    const bool is_open = socket_.receive();
    while (auto line = socket_.next_line()) handle(*line);
    if (heard_farewell_) return;
    if (!is_open) leave_without_hub("was lost: its process has ended");
    if (loop_clock_.now() - last_echo_ > options_.deadline) {
      leave_without_hub(fmt::format("is frozen: it has not answered for {:.0f} s", options_.deadline.count() / 1000.0));
    }
  }

  void handle(const std::string& line) {
    last_echo_ = Clock::now();
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "welcome") {
      words >> hub_pid_ >> hub_host_;
    } else if (kind == "echo") {
      words >> hub_step_ >> std::ws;
      std::getline(words, hub_op_);
    } else if (kind == "end") {
      int code = kCommunication;
      words >> code;
      // Rank 0 itself is ended by its hub, after everybody has been told.
      if (rank_ != 0) _exit(code);
    } else if (kind == "farewell") {
      heard_farewell_ = true;
    } else if (kind == "verdict") {
      std::unique_lock lock(mutex_);
      words >> verdict_.emplace();
      verdict_arrived_.notify_all();
    }
  }

  /// All other ranks notice at the same time; rank 1 speaks, and the rest only if that did not end the job.
  [[noreturn]] void leave_without_hub(const std::string& what) const {
    if (rank_ != 1) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    if (!one_host_) end_launcher_after(kLauncherPatience);
    if (loop_clock_.was_away()) _exit(kCommunication);
    print_error_line(fmt::format("rank 0 (host {}, process {}) {}; {}",
                                 hub_host_,
                                 hub_pid_,
                                 what,
                                 describe_end(hub_op_, hub_step_, activity_->saved_step())));
    _exit(kCommunication);
  }

  const int rank_;
  const bool one_host_;
  const std::shared_ptr<const Activity> activity_;
  const WatchdogOptions options_;
  std::string hub_host_ = "unknown";
  std::string hub_op_ = "start-up";
  int64_t hub_pid_ = 0;
  int64_t hub_step_ = 0;
  LoopClock loop_clock_;
  Clock::time_point last_echo_;
  std::mutex mutex_;  // of sending, and of the verdict
  std::condition_variable verdict_arrived_;
  std::optional<int> verdict_;
  bool heard_farewell_ = false;
  LineSocket socket_;
  std::thread thread_;
};

namespace {

/// Several addresses may lead somewhere else (container bridges have the same address on every node): the right one
/// answers.
std::optional<LineSocket> join_hub(const std::string& contact, int rank) {
  constexpr int kConnectMs = 3000;
  constexpr int kWelcomeMs = 15000;
  std::istringstream words(contact);
  std::string token;
  uint16_t port = 0;
  words >> token >> port;
  for (std::string address; words >> address;) {
    auto socket = connect_to(address, port, kConnectMs);
    if (!socket || !socket->send(fmt::format("hello {} {} {} {}", token, rank, getpid(), host_name()))) continue;
    pollfd answer{socket->descriptor(), POLLIN, 0};
    if (poll(&answer, 1, kWelcomeMs) == 1 && socket->receive()) return socket;
  }
  return std::nullopt;
}

}  // namespace

Watchdog::Watchdog(Communicator& world, std::shared_ptr<const Activity> activity, const WatchdogOptions& options) {
  WEFT_ASSERT(world.size() > 1);
  const bool one_host = all_on_one_host(world);
  std::string contact;
  if (world.rank() == 0) {
    hub_ = std::make_unique<Hub>(world.size(), one_host, activity, options);
    contact = fmt::format("{} {} {}", hub_->token(), hub_->port(), fmt::join(own_addresses(one_host), " "));
  }
  Tensor shared_contact = text_tensor(contact);
  world.broadcast(shared_contact, 0);
  // Rank 0 is a client of itself like all others, by the shortest way.
  auto socket = join_hub(text_of(shared_contact), world.rank());
  if (!socket) {
    fail(ExitCode::communication,
         "rank {} on {} cannot reach rank 0's watchdog at {}; do the nodes accept TCP connections from each other?",
         world.rank(),
         host_name(),
         text_of(shared_contact).substr(text_of(shared_contact).find(' ') + 1));
  }
  client_ = std::make_unique<Client>(world.rank(), one_host, std::move(*socket), std::move(activity), options);
}

Watchdog::~Watchdog() {
  client_.reset();
  hub_.reset();
}

int Watchdog::agree(int code, const std::string& message) {
  return client_->agree(code, message);
}

}  // namespace weft
