// The subcommands of `weft`, one a file. Each add_… function declares its options on `program` and, when the command
// line names it, leaves what is to be done in `context.run`.
#pragma once

#include <functional>

#include "core/error.h"

namespace weft {

class Command;
class MpiSession;

/// Where the chosen subcommand leaves its work. It runs after the command line was parsed, on every rank; errors are
/// thrown (core/error.h).
struct CommandContext {
  std::function<ExitCode(MpiSession&)> run;
};

void add_generate_command(Command program, CommandContext& context);
void add_chat_command(Command program, CommandContext& context);
void add_perplexity_command(Command program, CommandContext& context);
void add_tag_command(Command program, CommandContext& context);
void add_tokenize_command(Command program, CommandContext& context);
void add_train_command(Command program, CommandContext& context);
void add_prepare_command(Command program, CommandContext& context);
void add_inspect_command(Command program, CommandContext& context);
void add_plan_command(Command program, CommandContext& context);
void add_verify_command(Command program, CommandContext& context);
void add_bench_command(Command program, CommandContext& context);
void add_config_command(Command program, CommandContext& context);
void add_report_command(Command program, CommandContext& context);
void add_merge_command(Command program, CommandContext& context);
void add_evaluate_command(Command program, CommandContext& context);
void add_encode_command(Command program, CommandContext& context);
void add_similarity_command(Command program, CommandContext& context);
void add_fill_mask_command(Command program, CommandContext& context);
void add_answer_command(Command program, CommandContext& context);
void add_classify_command(Command program, CommandContext& context);
void add_convert_command(Command program, CommandContext& context);
void add_doctor_command(Command program, CommandContext& context);
void add_serve_command(Command program, CommandContext& context);
void add_launch_command(Command program, CommandContext& context);

}  // namespace weft
