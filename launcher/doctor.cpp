// weft doctor: what a job will find on its hosts, before it starts.
#include <fmt/format.h>

#include <memory>

#include "core/log.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/doctor_findings.h"
#include "launcher/doctor_measure.h"
#include "launcher/mpi_session.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft doctor
  weft launch -n 2 -- doctor --json
  mpirun --hostfile hosts --bind-to none weft doctor

Start it as the job will be started: same ranks, hosts and environment. Each check is ok, a warning, FAILED or skipped.
Exit code 0 if nothing failed, else 1.)";

struct DoctorCommand {
  CommonOptions common;
  bool prints_json = false;
};

/// The table says what the log would.
void silence_log(const CommonOptions& options, const MpiSession& session) {
  configure_log(options, session);
  if (options.verbose) return;
  log::configure(log::Level::error, session.rank() == 0 ? "" : fmt::format("rank {}", session.rank()).c_str());
}

ExitCode run_doctor(const DoctorCommand& options, MpiSession& session) {
  silence_log(options.common, session);
  const std::vector<RankFacts> ranks = find_facts(options.common, session);
  const std::vector<Finding> findings = judge(ranks);
  if (session.rank() == 0) {
    fmt::print("{}", options.prints_json ? findings_json(findings, ranks) + "\n" : findings_text(findings));
  }
  return has_passed(findings) ? ExitCode::ok : ExitCode::failure;
}

}  // namespace

void add_doctor_command(Command program, CommandContext& context) {
  auto options = std::make_shared<DoctorCommand>();
  Command command = program.add_subcommand("doctor", "Checks hosts, MPI and GPUs before a job");
  command.footer(kFooter);
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_threads_option(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_doctor(*options, session); }; });
}

}  // namespace weft
