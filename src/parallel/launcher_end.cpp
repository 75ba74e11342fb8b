#include "parallel/launcher_end.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

namespace weft {
namespace {

constexpr std::array kLaunchers = {"mpirun", "mpiexec", "orterun", "orted", "prterun", "prted"};

std::string read_process_file(pid_t process, const char* name) {
  std::ifstream file(fmt::format("/proc/{}/{}", process, name));
  return {std::istreambuf_iterator<char>(file), {}};
}

bool is_launcher(pid_t process) {
  std::string name = read_process_file(process, "comm");
  if (!name.empty()) name.pop_back();  // the end of the line
  return std::find(kLaunchers.begin(), kLaunchers.end(), name) != kLaunchers.end();
}

/// In clock ticks after boot; tells a process from a later one with the same number. Empty: there is none.
std::string start_time(pid_t process) {
  constexpr int kFieldsBehindName = 20;
  std::string text = read_process_file(process, "stat");
  size_t at = text.rfind(')');  // a name may have anything in it
  for (int field = 0; field < kFieldsBehindName && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  return at == std::string::npos ? "" : text.substr(at, text.find(' ', at + 1) - at);
}

}  // namespace

void end_launcher_after(std::chrono::milliseconds patience) {
  const pid_t launcher = getppid();
  const std::string started = start_time(launcher);
  if (!is_launcher(launcher) || started.empty() || fork() != 0) return;
  // mpirun kills the process groups of its ranks, and waits for the ends of their pipes.
  setsid();
  close_range(0, ~0U, 0);
  std::this_thread::sleep_for(patience);
  if (start_time(launcher) == started) kill(launcher, SIGKILL);
  _exit(0);
}

}  // namespace weft
