// Rank 0's side of the watchdog: hears every rank, decides when the job ends and how.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/line_socket.h"
#include "parallel/watchdog.h"

namespace weft {

/// How a rank's command ended.
struct Outcome {
  int code = 0;
  std::string message;
};

struct Verdict {
  int code = 0;
  std::string line;  // for standard error; may be empty
};

/// The exit code of the job and the one line to print. The cause comes before its consequences: ranks that lost their
/// peer (code communication) count only when nobody failed otherwise.
Verdict judge(const std::map<int, Outcome>& outcomes, int num_ranks);

/// One line on standard error, like log::error but in a single write and whatever the state of the process.
void print_error_line(const std::string& text);

/// What a lost rank did last, and from which step on a training run can be started again (`saved_step`, −1: not
/// known). Step 0 is that of commands that count none.
std::string describe_end(const std::string& op, int64_t step, int64_t saved_step);

/// Ticks of a loop that should come round every few hundred milliseconds. A process that was itself stopped, or
/// starved, must not take its own absence for the others'.
class LoopClock {
 public:
  using Clock = std::chrono::steady_clock;
  /// The time by which deadlines must move, since this process was away; zero in normal operation.
  Clock::duration tick();
  /// The time of the last tick. Silence is measured against it: a process stopped between tick and check finds nothing
  /// amiss.
  Clock::time_point now() const { return last_; }
  /// True in the seconds after an absence: what has become of the others meanwhile is not news, they have said it
  /// themselves.
  bool was_away() const { return Clock::now() - back_ < std::chrono::seconds(5); }

 private:
  Clock::time_point back_ = Clock::now() - std::chrono::hours(1);
  Clock::time_point last_ = Clock::now();
};

/// Lines from a rank: "hello TOKEN RANK PID HOST", "beat STEP OP", "finish CODE MESSAGE", "goodbye". Answers: "welcome
/// PID HOST", "echo STEP OP" (of rank 0), "verdict CODE" (all ranks have
/// finished), "farewell" (all have said goodbye), "end CODE" (leave at once).
class Watchdog::Hub {
 public:
  Hub(int num_ranks, bool one_host, std::shared_ptr<const Activity> activity, const WatchdogOptions& options);
  ~Hub();
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  uint16_t port() const { return listener_.port(); }
  const std::string& token() const { return token_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Member {
    LineSocket socket;
    Clock::time_point last_heard;
    std::string host;
    std::string op;
    int64_t pid = 0;
    int64_t step = 0;
    bool said_goodbye = false;
  };

  void run();
  void wait_for_input() const;
  void accept_newcomers();
  void greet(Member newcomer, const std::string& line);
  void hear(int rank, Member& member);
  void handle(int rank, Member& member, const std::string& line);
  void check_heartbeats();
  void check_outcomes();
  void send_all(const std::string& line);
  [[noreturn]] void end_job(const Verdict& verdict);
  [[noreturn]] void end_job_without(int rank, const Member& member, const std::string& what);

  const int num_ranks_;
  const bool one_host_;
  const std::shared_ptr<const Activity> activity_;
  const WatchdogOptions options_;
  const std::string token_;
  Listener listener_;
  LoopClock loop_clock_;
  std::vector<Member> newcomers_;
  std::map<int, Member> members_;
  std::map<int, Outcome> outcomes_;
  std::optional<Clock::time_point> first_failure_;
  bool verdict_sent_ = false;
  std::atomic<bool> abandoned_{false};
  std::thread thread_;
};

}  // namespace weft
