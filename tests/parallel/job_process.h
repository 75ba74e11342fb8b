// A command with ranks as a child process: its output line by line, signals to single ranks, and its exit code, all
// with deadlines.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace weft {

class JobProcess {
 public:
  explicit JobProcess(const std::vector<std::string>& arguments);
  /// Kills what is left of it.
  ~JobProcess();
  JobProcess(const JobProcess&) = delete;
  JobProcess& operator=(const JobProcess&) = delete;

  /// Waits until every rank has said "ready RANK PID" and returns the process ids; empty if they don't in 30 s.
  std::vector<pid_t> wait_until_ready(int num_ranks);
  /// Waits for the end and returns the exit code (128 + n after signal n), or -1 if it goes on past the limit.
  int wait(std::chrono::seconds limit);
  pid_t pid() const { return pid_; }
  double seconds() const;

  /// Standard output and standard error together.
  const std::string& output() const { return output_; }
  std::vector<std::string> lines_with(const std::string& part) const;

 private:
  bool read_some(std::chrono::steady_clock::time_point until);

  pid_t pid_ = -1;
  int pipe_ = -1;
  bool has_ended_ = false;
  std::string output_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace weft
