// The flags of beam search.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "generate/beam_search.h"
#include "launcher/command_line.h"
#include "launcher/sampling_options.h"

namespace weft {

struct BeamFlags {
  BeamOptions beams{.num_beams = 0};  // 0: no beam search
  std::string mode = "transformers";
  std::string early_stopping = "no";
  std::optional<Command> command;

  bool is_searching() const { return beams.num_beams > 0; }
};

/// --beams, --length-penalty, --early-stopping, --beam-mode, --min-ends. `flags` must live as long as the command.
void add_beam_options(Command command, BeamFlags& flags);

/// Throws Error(usage) for flags of a beam search without one, or of a draw with one, or more answers than beams.
void check_beam_flags(const BeamFlags& flags, int64_t num_results);

/// The request that the flags describe, without a prompt.
BeamRequest beam_request_from_flags(const BeamFlags& flags, const SamplingFlags& sampling, int64_t num_results);

}  // namespace weft
