// The subcommands of `weft`, one a file. Each add_… function declares its options on `app` and, when the command line
// names it, leaves what is to be done in `context.run`.
#pragma once

#include <functional>

#include "core/error.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace weft {

class MpiSession;

/// Where the chosen subcommand leaves its work. It runs after the command line was parsed, on every rank; errors are
/// thrown (core/error.h).
struct CommandContext {
  std::function<ExitCode(MpiSession&)> run;
};

void add_generate_command(CLI::App& app, CommandContext& context);
void add_chat_command(CLI::App& app, CommandContext& context);
void add_perplexity_command(CLI::App& app, CommandContext& context);
void add_tag_command(CLI::App& app, CommandContext& context);
void add_tokenize_command(CLI::App& app, CommandContext& context);
void add_train_command(CLI::App& app, CommandContext& context);
void add_prepare_command(CLI::App& app, CommandContext& context);
void add_inspect_command(CLI::App& app, CommandContext& context);
void add_plan_command(CLI::App& app, CommandContext& context);
void add_verify_command(CLI::App& app, CommandContext& context);
void add_bench_command(CLI::App& app, CommandContext& context);
void add_config_command(CLI::App& app, CommandContext& context);
void add_report_command(CLI::App& app, CommandContext& context);
void add_merge_command(CLI::App& app, CommandContext& context);
void add_encode_command(CLI::App& app, CommandContext& context);
void add_similarity_command(CLI::App& app, CommandContext& context);
void add_fill_mask_command(CLI::App& app, CommandContext& context);
void add_answer_command(CLI::App& app, CommandContext& context);
void add_classify_command(CLI::App& app, CommandContext& context);
void add_convert_command(CLI::App& app, CommandContext& context);
void add_doctor_command(CLI::App& app, CommandContext& context);
void add_launch_command(CLI::App& app, CommandContext& context);

}  // namespace weft
