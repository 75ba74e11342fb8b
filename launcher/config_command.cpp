// weft config: what a config amounts to, and what its fields mean.
#include <fmt/format.h>

#include <memory>

#include "config/check_run_config.h"
#include "config/run_config.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft config configs/smollm2-lora.textproto
  weft config configs/smollm2-lora.textproto --set train.learning_rate=1e-4 --set lora.target_modules=q_proj,v_proj
  weft config configs/llama3-8b-full.textproto --ranks 16 --json
  weft config --explain train.schedule

Prints the config with `extends` and --set applied and all defaults written out, after the checks that `weft train` makes
before it starts. The output is a config itself.)";

struct ConfigCommand {
  CommonOptions common;
  std::string path;
  std::vector<std::string> overrides;
  std::string field;
  bool explains = false;
  bool prints_json = false;
  int num_ranks = 0;
};

ExitCode run_config(const ConfigCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  if (options.explains) {
    fmt::print("{}", explain_config(options.field));
    return ExitCode::ok;
  }
  RunConfig config = load_run_config(options.path, options.overrides);
  check_run_config(config);
  if (options.num_ranks > 0) check_against_ranks(config, options.num_ranks);
  fmt::print("{}", options.prints_json ? config.to_json() : config.to_text());
  return ExitCode::ok;
}

}  // namespace

void add_config_command(Command program, CommandContext& context) {
  auto options = std::make_shared<ConfigCommand>();
  Command command = program.add_subcommand("config", "Prints a config as it will run, or explains a field");
  command.footer(kFooter);
  Option path = command.add_option("CONFIG", options->path, "Config file: Protobuf text, or JSON if it ends in .json");
  Option set = command.add_option("--set", options->overrides, "FIELD=VALUE over the file's; repeatable");
  set.one_value_each();
  Option ranks = command.add_option("--ranks", options->num_ranks, "Also checks that so many ranks can run it")
                     .check_range(1, 1 << 20);
  Option json = command.add_flag("--json", options->prints_json, "Prints a JSON object");
  Option explain =
      command
          .add_option("--explain", options->field, "Documents a field, its fields and values; alone: all that there is")
          .expected(0, 1);
  for (Option other : {path, set, ranks, json}) explain.excludes(other);
  add_output_options(command, options->common);
  command.callback([options, path, explain, &context] {
    options->explains = explain.count() > 0;
    if (!options->explains && path.count() == 0) fail_missing("CONFIG or --explain");
    context.run = [options](MpiSession& session) { return run_config(*options, session); };
  });
}

}  // namespace weft
