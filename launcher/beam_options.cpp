#include "launcher/beam_options.h"

#include <initializer_list>
#include <string_view>

#include "core/error.h"

namespace weft {

namespace {

constexpr const char* kBeams = "Beam search (with --beams; best answers first, so many as --num-return-sequences says)";

BeamOptions options_from_flags(const BeamFlags& flags) {
  BeamOptions options = flags.beams;
  options.mode = flags.mode == "bert4keras" ? BeamMode::bert4keras : BeamMode::transformers;
  options.early_stopping = EarlyStopping::no;
  if (flags.early_stopping == "yes") options.early_stopping = EarlyStopping::yes;
  if (flags.early_stopping == "never") options.early_stopping = EarlyStopping::never;
  return options;
}

}  // namespace

void add_beam_options(Command command, BeamFlags& flags) {
  flags.command = command;
  BeamOptions& beams = flags.beams;
  command.add_option("--beams", beams.num_beams, "Searches for the likeliest answers with so many beams (0: does not)")
      .check_range(0, 1024)
      .show_default()
      .group(kBeams);
  command
      .add_option("--length-penalty",
                  beams.length_penalty,
                  "Answers compete by log probability / length^X: above 0 favours long ones, below 0 short ones")
      .show_default()
      .group(kBeams);
  command
      .add_option(
          "--early-stopping",
          flags.early_stopping,
          "With as many answers as beams, ends at once (yes), when beams of the present length would be no better "
          "(no), or when beams of no length would be (never)")
      .check_one_of({"no", "yes", "never"})
      .show_default()
      .group(kBeams);
  command
      .add_option(
          "--beam-mode",
          flags.mode,
          "transformers: as generate(num_beams=N) there; bert4keras: as AutoRegressiveDecoder.beam_search, which "
          "knows no length penalty and gives one answer")
      .check_one_of({"transformers", "bert4keras"})
      .show_default()
      .group(kBeams);
  command.add_option("--min-ends", beams.min_ends, "bert4keras: end tokens in an answer before it may end")
      .show_default()
      .group(kBeams);
}

void check_beam_flags(const BeamFlags& flags, int64_t num_results) {
  auto refuse_each = [&flags](std::initializer_list<const char*> names, std::string_view why) {
    for (const char* name : names) {
      if (flags.command->count(name) > 0) fail(ExitCode::usage, "generate: {} {}", name, why);
    }
  };
  if (!flags.is_searching()) {
    refuse_each({"--length-penalty", "--early-stopping", "--beam-mode", "--min-ends"}, "needs --beams");
    return;
  }
  refuse_each({"--greedy", "--top-k", "--top-p", "--min-p", "--seed", "--stop"},
              "and --beams exclude each other: a beam search neither draws nor sees text");
  if (num_results > flags.beams.num_beams) {
    fail(ExitCode::usage,
         "generate: --num-return-sequences {} needs at least as many --beams, not {}",
         num_results,
         flags.beams.num_beams);
  }
  if (flags.mode == "bert4keras") {
    refuse_each({"--length-penalty", "--early-stopping"}, "has no meaning with --beam-mode bert4keras");
    if (num_results > 1) fail(ExitCode::usage, "generate: --beam-mode bert4keras gives a single answer");
  } else {
    refuse_each({"--min-ends"}, "needs --beam-mode bert4keras");
  }
  check_beam_options(options_from_flags(flags));
}

BeamRequest beam_request_from_flags(const BeamFlags& flags, const SamplingFlags& sampling, int64_t num_results) {
  GenerationRequest request = request_from_flags(sampling);
  return {.prompt = {},
          .beams = options_from_flags(flags),
          .num_results = num_results,
          .sampling = request.sampling,
          .max_new_tokens = request.max_new_tokens,
          .min_new_tokens = request.min_new_tokens,
          .end_ids = {}};
}

}  // namespace weft
