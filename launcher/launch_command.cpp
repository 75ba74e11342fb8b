// weft launch: the flags of launch.h.
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/launch.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft launch -n 2 -- generate --model SmolLM2-135M-Instruct --chat "Hello"
  weft launch -n 16 --hostfile hosts -- perplexity --model gemma-2-27b --text book.txt
  weft launch -n 2 --dry-run -- chat --model SmolLM2-135M-Instruct

The line that is run (mpirun or srun) is printed to standard error. Ctrl-C and SIGTERM reach all ranks.)";

}  // namespace

void add_launch_command(Command program, CommandContext& context) {
  auto options = std::make_shared<LaunchOptions>();
  Command command = program.add_subcommand("launch", "Starts a weft command on several ranks");
  command.footer(kFooter);
  command.add_option("-n,--ranks", options->num_ranks, "Ranks").required().check_range(1, 1 << 20);
  command.add_option("--hostfile", options->hostfile, "Open MPI host file: a host a line, NAME slots=N");
  command.add_flag("--srun", options->use_srun, "Starts with srun, inside a Slurm allocation");
  command.add_flag("--dry-run", options->dry_run, "Prints the line and runs nothing");
  command.add_option("command", options->command, "After --: the command and its flags").required();
  command.callback([options, &context] {
    context.run = [options](MpiSession&) {
      if (isatty(STDIN_FILENO) == 1) setenv("WEFT_TERMINAL", "1", 1);  // for weft chat, which sees a pipe
      return static_cast<ExitCode>(run_launch(*options));
    };
  });
}

}  // namespace weft
