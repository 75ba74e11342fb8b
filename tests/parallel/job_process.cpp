#include "parallel/job_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <thread>

namespace weft {

using Clock = std::chrono::steady_clock;

JobProcess::JobProcess(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return;
  pipe_ = ends[0];
  pid_ = fork();
  if (pid_ == 0) {
    setpgid(0, 0);
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    std::vector<char*> pointers;
    pointers.reserve(arguments.size() + 1);
    for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
    pointers.push_back(nullptr);
    execvp(pointers[0], pointers.data());
    _exit(127);
  }
  close(ends[1]);
}

JobProcess::~JobProcess() {
  if (!has_ended_) {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(pipe_);
}

bool JobProcess::read_some(Clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
  pollfd source{pipe_, POLLIN, 0};
  if (left.count() <= 0 || poll(&source, 1, static_cast<int>(left.count())) != 1) return false;
  std::array<char, 4096> buffer;
  const ssize_t count = read(pipe_, buffer.data(), buffer.size());
  if (count <= 0) return false;
  output_.append(buffer.data(), static_cast<size_t>(count));
  return true;
}

std::vector<pid_t> JobProcess::wait_until_ready(int num_ranks) {
  const Clock::time_point until = Clock::now() + std::chrono::seconds(30);
  std::map<int, pid_t> ready;
  while (static_cast<int>(ready.size()) < num_ranks) {
    if (!read_some(until)) return {};
    for (const std::string& line : lines_with("ready ")) {
      std::istringstream words(line);
      std::string word;
      int rank = 0;
      pid_t process = 0;
      if (words >> word >> rank >> process) ready[rank] = process;
    }
  }
  start_ = Clock::now();
  std::vector<pid_t> processes;
  processes.reserve(ready.size());
  for (const auto& [rank, process] : ready) processes.push_back(process);
  return processes;
}

int JobProcess::wait(std::chrono::seconds limit) {
  const Clock::time_point until = Clock::now() + limit;
  while (read_some(until)) continue;
  int status = 0;
  while (waitpid(pid_, &status, WNOHANG) == 0) {
    if (Clock::now() > until) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  has_ended_ = true;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

double JobProcess::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

std::vector<std::string> JobProcess::lines_with(const std::string& part) const {
  std::vector<std::string> found;
  std::istringstream text(output_);
  for (std::string line; std::getline(text, line) && !text.eof();) {
    if (line.find(part) != std::string::npos) found.push_back(line);
  }
  return found;
}

}  // namespace weft
