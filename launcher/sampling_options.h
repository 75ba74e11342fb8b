// The flags that say how tokens are chosen, shared by generate and chat.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "generate/generator.h"
#include "launcher/command_line.h"

namespace weft {

struct SamplingFlags {
  SamplerOptions sampler;
  bool is_greedy = false;
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;
  bool ignores_end = false;
  std::vector<int32_t> end_ids;
  std::vector<std::string> stop_strings;
  std::vector<std::string> logit_bias;
  std::vector<int64_t> penalty_range;
  std::string window_mode = "sliding";
  std::optional<Command> command;
};

/// --temperature, --top-k, --top-p, --min-p, --penalty, …, --seed, --stop, --max-new-tokens. `flags` must live as long
/// as the command.
void add_sampling_options(Command command, SamplingFlags& flags);

/// The request that the flags describe, without a prompt. Draws when one of --temperature, --top-k, --top-p and --min-p
/// was given, else takes the likeliest token. Throws Error(usage).
GenerationRequest request_from_flags(const SamplingFlags& flags);

}  // namespace weft
