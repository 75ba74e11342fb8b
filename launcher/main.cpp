// weft: one program, a command a file.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/log.h"
#include "launcher/commands.h"
#include "launcher/mpi_session.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft generate --model SmolLM2-135M-Instruct --chat "What is a tensor?"
  weft launch -n 2 -- chat --model Llama-3.1-8B-Instruct
  weft launch -n 2 -- train configs/smollm2-lora.textproto
  weft report runs/smollm2-lora
  weft inspect gemma-2-2b-it.gguf

Exit codes: 0 done, 1 internal failure, 2 wrong command line, 3 unusable input, 4 out of memory, 5 a rank was lost,
6 verification failed, 130 interrupted.)";

void add_commands(CLI::App& app, CommandContext& context) {
  add_generate_command(app, context);
  add_chat_command(app, context);
  add_perplexity_command(app, context);
  add_tokenize_command(app, context);
  add_train_command(app, context);
  add_prepare_command(app, context);
  add_inspect_command(app, context);
  add_plan_command(app, context);
  add_verify_command(app, context);
  add_bench_command(app, context);
  add_config_command(app, context);
  add_report_command(app, context);
  add_merge_command(app, context);
  add_encode_command(app, context);
  add_similarity_command(app, context);
  add_fill_mask_command(app, context);
  add_classify_command(app, context);
  add_tag_command(app, context);
  add_answer_command(app, context);
  add_convert_command(app, context);
  add_doctor_command(app, context);
  add_launch_command(app, context);
}

/// Under mpirun every rank parses the same command line; one of them answers for all.
bool is_speaking_rank() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return !rank || std::string_view(rank) == "0";
}

/// Prints the help or version that was asked for, or what is wrong with the command line.
ExitCode report_parse_end(const CLI::App& app, const CLI::ParseError& end, std::string_view first_argument) {
  bool is_answer = end.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success);
  if (is_speaking_rank()) {
    if (is_answer) {
      app.exit(end);
    } else if (app.get_subcommands().empty() && !first_argument.empty() && !first_argument.starts_with('-')) {
      log::error("{} is no command of weft; see `weft --help`", printable(first_argument));
    } else {
      std::string command = "weft";
      for (const CLI::App* chosen : app.get_subcommands()) command += " " + chosen->get_name();
      log::error("{}; see `{} --help`", printable(end.what(), 400), command);
    }
  }
  return is_answer ? ExitCode::ok : ExitCode::usage;
}

int run(int argc, char** argv) {
  CLI::App app{"Weft: transformers on many processors"};
  app.name("weft");
  app.footer(kFooter);
  app.set_version_flag("--version", "weft " WEFT_VERSION);
  app.require_subcommand(1);
  CommandContext context;
  add_commands(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& end) {
    return static_cast<int>(report_parse_end(app, end, argc > 1 ? argv[1] : ""));
  }
  MpiSession session(argc, argv);
  return session.run([&] { return static_cast<int>(context.run(session)); });
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  return weft::run(argc, argv);
}
