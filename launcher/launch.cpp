#include "launcher/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/log.h"

namespace weft {
namespace {

std::vector<std::string> mpirun_command(const LaunchOptions& options, const LaunchEnvironment& environment) {
  // -q: without its own words about a rank that failed, which says why itself.
  std::vector<std::string> line = {"mpirun", "-q", "-n", std::to_string(options.num_ranks)};
  if (!options.hostfile.empty()) line.insert(line.end(), {"--hostfile", options.hostfile});
  // Open MPI pins each rank to one core when there are only one or two of them.
  line.insert(line.end(), {"--bind-to", "none", "--map-by", "slot", "--oversubscribe"});
  if (environment.is_root) line.emplace_back("--allow-run-as-root");
  return line;
}

std::vector<std::string> srun_command(const LaunchOptions& options) {
  return {"srun", "-n", std::to_string(options.num_ranks), "--mpi=pmix", "--cpu-bind=none", "--kill-on-bad-exit=1"};
}

/// Slots of each host in an Open MPI hostfile: "name slots=8 max_slots=8", # for comments; one slot if not said.
std::vector<int> hostfile_slots(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(ExitCode::usage, "hostfile {}: {}", printable(path), std::strerror(errno));
  std::vector<int> slots;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string word;
    if (!(words >> word)) continue;
    slots.push_back(1);
    while (words >> word) {
      if (word.rfind("slots=", 0) == 0) slots.back() = std::max(1, std::atoi(word.c_str() + 6));
    }
  }
  if (slots.empty())
    fail(ExitCode::usage, "hostfile {} names no host; expected lines like: node1 slots=8", printable(path));
  return slots;
}

bool is_installed(const std::string& program) {
  std::istringstream folders(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access(folder.append("/").append(program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

void check_installed(const std::string& program) {
  if (is_installed(program)) return;
  if (program == "srun") fail(ExitCode::usage, "srun not found; --srun works inside a Slurm allocation only");
  fail(ExitCode::usage,
       "mpirun not found; install it (apt-get install openmpi-bin) or, inside a Slurm allocation, use --srun");
}

sigset_t stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals, signal);
  return signals;
}

constexpr int kCannotExecute = 127;

/// Becomes the command, which ends when `parent` does, under the signal mask that this process had. But SIGINT stays
/// blocked: a Ctrl-C reaches the whole foreground process group, and mpirun would take its ranks down on its own
/// account.
[[noreturn]] void become(const std::vector<std::string>& arguments, sigset_t mask, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kCannotExecute);
  sigaddset(&mask, SIGINT);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  std::vector<char*> pointers;
  pointers.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  execvp(pointers[0], pointers.data());
  _exit(kCannotExecute);
}

constexpr int kSignalBase = 128;

int exit_code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : kSignalBase + WTERMSIG(status);
}

/// The documented code for how mpirun or srun ended without having been asked to stop; one line for what no rank said.
int judge_end(int status, const std::string& launcher) {
  if (WIFSIGNALED(status)) {
    log::error("{} was ended by signal {} ({})", launcher, WTERMSIG(status), strsignal(WTERMSIG(status)));
    return static_cast<int>(ExitCode::communication);
  }
  const int code = WEXITSTATUS(status);
  if (code <= static_cast<int>(ExitCode::verification_failed) || code == static_cast<int>(ExitCode::interrupted)) {
    return code;
  }
  if (code > kSignalBase && code <= kSignalBase + SIGRTMAX) {
    const int signal = code - kSignalBase;
    log::error("a rank was ended by signal {} ({}){}",
               signal,
               strsignal(signal),
               signal == SIGKILL ? "; was it out of memory, or killed by hand?" : "");
  } else {
    log::error("{} ended with code {}; the line above, without -q, says more", launcher, code);
  }
  return static_cast<int>(ExitCode::communication);
}

/// Waits for the child; passes requests to stop on. All signals of interest are blocked and taken one by one here, so
/// that none is lost between a check and a wait.
int supervise(pid_t child, const std::string& launcher) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kInsistWithin = std::chrono::seconds(2);
  sigset_t signals = stop_signals();
  sigaddset(&signals, SIGCHLD);
  Clock::time_point last_request{};
  while (true) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) {
      const bool was_asked_to_stop = last_request != Clock::time_point{};
      return was_asked_to_stop ? exit_code_of(status) : judge_end(status, launcher);
    }
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal == SIGCHLD) continue;
    const Clock::time_point now = Clock::now();
    const bool insists = last_request != Clock::time_point{} && now - last_request < kInsistWithin;
    last_request = now;
    kill(child, insists ? SIGTERM : SIGUSR1);
  }
}

std::string own_path() {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  return length > 0 ? std::string(path.data(), static_cast<size_t>(length)) : "weft";
}

}  // namespace

LaunchEnvironment current_launch_environment() {
  LaunchEnvironment environment{.program = own_path(), .is_root = geteuid() == 0, .omp_num_threads = {}};
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) environment.num_cores = CPU_COUNT(&cores);
  if (const char* threads = std::getenv("OMP_NUM_THREADS")) environment.omp_num_threads = threads;
  return environment;
}

int ranks_per_host(const LaunchOptions& options) {
  if (options.hostfile.empty()) return options.num_ranks;
  const std::vector<int> slots = hostfile_slots(options.hostfile);
  int64_t total = 0;
  for (int count : slots) total += count;
  const auto num_hosts = static_cast<int>(slots.size());
  if (options.num_ranks > total) return (options.num_ranks + num_hosts - 1) / num_hosts;
  return std::min(options.num_ranks, *std::max_element(slots.begin(), slots.end()));
}

std::vector<std::string> launch_command(const LaunchOptions& options, const LaunchEnvironment& environment) {
  if (options.num_ranks < 1) fail(ExitCode::usage, "cannot launch {} ranks; expected -n 1 or more", options.num_ranks);
  if (options.command.empty()) {
    fail(ExitCode::usage,
         "nothing to launch; put a command after --, as in: weft launch -n 2 -- generate --model DIR …");
  }
  const int threads = std::max(1, environment.num_cores / ranks_per_host(options));
  const std::string threads_setting =
      "OMP_NUM_THREADS=" + environment.omp_num_threads.value_or(std::to_string(threads));
  std::vector<std::string> line = options.use_srun ? srun_command(options) : mpirun_command(options, environment);
  if (options.use_srun) {
    line.push_back("--export=ALL," + threads_setting);
  } else {
    line.insert(line.end(), {"-x", threads_setting});
  }
  line.push_back(environment.program);
  line.insert(line.end(), options.command.begin(), options.command.end());
  return line;
}

std::string quote_for_shell(const std::vector<std::string>& arguments) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%";
  std::string line;
  for (const std::string& argument : arguments) {
    if (!line.empty()) line += ' ';
    if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) {
      line += argument;
      continue;
    }
    line += '\'';
    for (char c : argument) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

int run_launch(const LaunchOptions& options) {
  const std::vector<std::string> line = launch_command(options, current_launch_environment());
  if (!options.dry_run) check_installed(line[0]);
  fmt::print(stderr, "weft: {}\n", quote_for_shell(line));
  if (options.dry_run) return 0;
  sigset_t signals = stop_signals();
  sigaddset(&signals, SIGCHLD);
  sigset_t before;
  sigprocmask(SIG_BLOCK, &signals, &before);
  const pid_t self = getpid();
  const pid_t child = fork();
  if (child == 0) become(line, before, self);
  if (child < 0) fail(ExitCode::failure, "cannot start {}: {}", line[0], std::strerror(errno));
  const int code = supervise(child, line[0]);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  return code;
}

}  // namespace weft
