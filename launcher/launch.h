// `weft launch -n 8 -- train …`: the parent of mpirun, or of srun inside a Slurm allocation.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace weft {

struct LaunchOptions {
  int num_ranks = 1;
  std::string hostfile;              // Open MPI's: "name slots=8", a host a line
  bool use_srun = false;             // instead of mpirun
  bool dry_run = false;              // print the line and do nothing
  std::vector<std::string> command;  // "generate", "--model", …
};

/// What the line depends on besides the options.
struct LaunchEnvironment {
  std::string program;  // the path of this executable
  bool is_root = false;
  int num_cores = 1;
  std::optional<std::string> omp_num_threads;  // the user's, which wins
};

LaunchEnvironment current_launch_environment();

/// The most ranks that one host gets: all of them without a hostfile. Throws Error(bad_input) if the file has no hosts.
int ranks_per_host(const LaunchOptions& options);

/// The program and arguments to run. Throws Error(usage) without ranks or without a command.
std::vector<std::string> launch_command(const LaunchOptions& options, const LaunchEnvironment& environment);

/// As one would type it into a shell.
std::string quote_for_shell(const std::vector<std::string>& arguments);

/// Prints the line to standard error, runs it and returns its exit code: the ranks', communication when one was ended
/// by a signal. SIGTERM and SIGINT reach the ranks as SIGUSR1, the request to stop in an orderly way; a second one
/// within two seconds ends them at once. They end when this process does, however. Throws Error(usage) if mpirun or
/// srun isn't installed.
int run_launch(const LaunchOptions& options);

}  // namespace weft
