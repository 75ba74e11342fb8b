// weft: one program, a command a file.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "core/log.h"
#include "launcher/command_line.h"
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

void add_commands(Command program, CommandContext& context) {
  add_generate_command(program, context);
  add_chat_command(program, context);
  add_serve_command(program, context);
  add_perplexity_command(program, context);
  add_tokenize_command(program, context);
  add_train_command(program, context);
  add_prepare_command(program, context);
  add_inspect_command(program, context);
  add_plan_command(program, context);
  add_verify_command(program, context);
  add_bench_command(program, context);
  add_config_command(program, context);
  add_report_command(program, context);
  add_merge_command(program, context);
  add_evaluate_command(program, context);
  add_encode_command(program, context);
  add_similarity_command(program, context);
  add_fill_mask_command(program, context);
  add_classify_command(program, context);
  add_tag_command(program, context);
  add_answer_command(program, context);
  add_convert_command(program, context);
  add_doctor_command(program, context);
  add_launch_command(program, context);
}

/// Under mpirun every rank parses the same command line; one of them answers for all.
bool is_speaking_rank() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  return !rank || std::string_view(rank) == "0";
}

/// What standard output did not take is missing from the answer, whatever else went well.
void check_standard_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  fail_input("standard output could not be written to its end; is the disk full?");
}

/// The command's exit code; its whole answer is out.
ExitCode run_command(const CommandContext& context, MpiSession& session) {
  try {
    const ExitCode code = context.run(session);
    if (code == ExitCode::ok) check_standard_output();
    return code;
  } catch (const std::system_error&) {
    check_standard_output();
    throw;
  }
}

/// What is wrong with the command line.
std::string describe_mistake(const ParseEnd& end, std::string_view first_argument, bool has_separator) {
  const std::string suggestion =
      end.suggestion.empty() ? std::string() : fmt::format(" (did you mean {}?)", end.suggestion);
  if (end.command.empty() && !first_argument.empty() && !first_argument.starts_with('-')) {
    return fmt::format("{} is no command of weft{}; see `weft --help`", printable(first_argument), suggestion);
  }
  if (end.command == "launch" && end.is_unexpected && !has_separator && end.suggestion.empty()) {
    return "the command to launch stands after --, as in: weft launch -n 2 -- generate --model DIR …";
  }
  const std::string command = end.command.empty() ? "weft" : "weft " + end.command;
  return fmt::format("{}{}; see `{} --help`", printable(end.text, 400), suggestion, command);
}

/// Prints the help or version that was asked for, or what is wrong with the command line.
ExitCode report_parse_end(const ParseEnd& end, int argc, char** argv) {
  if (!is_speaking_rank()) return end.is_answer ? ExitCode::ok : ExitCode::usage;
  if (end.is_answer) {
    std::fputs(end.text.c_str(), stdout);
    check_standard_output();
    return ExitCode::ok;
  }
  const bool has_separator = std::any_of(argv, argv + argc, [](std::string_view word) { return word == "--"; });
  log::error("{}", describe_mistake(end, argc > 1 ? argv[1] : "", has_separator));
  return ExitCode::usage;
}

int run(int argc, char** argv) {
  CommandLine line({.name = "weft",
                    .description = "Weft: transformers on many processors",
                    .footer = kFooter,
                    .version = "weft " WEFT_VERSION});
  CommandContext context;
  add_commands(line.program(), context);
  if (std::optional<ParseEnd> end = line.parse(argc, argv)) {
    try {
      return static_cast<int>(report_parse_end(*end, argc, argv));
    } catch (const Error& error) {
      log::error("{}", error.what());
      return static_cast<int>(error.code());
    }
  }
  MpiSession session(argc, argv);
  return session.run([&] { return static_cast<int>(run_command(context, session)); });
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  return weft::run(argc, argv);
}
