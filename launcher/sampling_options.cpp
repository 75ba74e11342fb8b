#include "launcher/sampling_options.h"

#include <charconv>
#include <initializer_list>

#include "core/error.h"

namespace weft {

namespace {

constexpr const char* kSampling = "Sampling (greedy unless one of temperature, top-k, top-p, min-p is given)";

void add_penalty_options(Command command, SamplingFlags& flags) {
  SamplerOptions& sampler = flags.sampler;
  command.add_option("--penalty", sampler.penalty, "Divides (if > 0) or multiplies the logits of past tokens")
      .show_default()
      .group(kSampling);
  command
      .add_option("--presence-penalty", sampler.presence_penalty, "Taken off the logits of the answer's tokens so far")
      .show_default()
      .group(kSampling);
  command
      .add_option(
          "--frequency-penalty", sampler.frequency_penalty, "The same, times how often the answer has the token")
      .show_default()
      .group(kSampling);
  command.add_option("--penalty-window", sampler.penalty_window, "Last tokens that the penalty sees (0: all)")
      .show_default()
      .group(kSampling);
  command
      .add_option(
          "--penalty-window-mode",
          flags.window_mode,
          "sliding: the last W tokens; block: the current block of W positions and the one before, as bert4keras3")
      .check_one_of({"sliding", "block"})
      .show_default()
      .group(kSampling);
  command
      .add_option("--max-penalty-range",
                  flags.penalty_range,
                  "MIN MAX: the penalty to the power of how often the token occurred, from MIN times on, at most MAX")
      .expected(2)
      .group(kSampling);
  command
      .add_option("--padded-length",
                  flags.sampler.padded_length,
                  "As bert4keras3, whose rows are padded with id 0 to this length: zeros not yet written count as past "
                  "tokens (0: never)")
      .check_not_negative()
      .show_default()
      .group(kSampling);
}

/// "ID=NUMBER"
std::pair<int32_t, double> parse_bias(const std::string& text) {
  std::pair<int32_t, double> bias;
  const char* end = text.data() + text.size();
  auto [equals, id_error] = std::from_chars(text.data(), end, bias.first);
  bool is_usable = id_error == std::errc() && equals != end && *equals == '=';
  if (is_usable) {
    auto [last, error] = std::from_chars(equals + 1, end, bias.second);
    is_usable = error == std::errc() && last == end;
  }
  if (!is_usable) fail(ExitCode::usage, "--logit-bias {}: expected ID=NUMBER, such as 13=-5", printable(text));
  return bias;
}

}  // namespace

void add_sampling_options(Command command, SamplingFlags& flags) {
  flags.command = command;
  SamplerOptions& sampler = flags.sampler;
  command.add_option("--max-new-tokens", flags.max_new_tokens, "Tokens of an answer at most").show_default();
  command.add_option("--min-new-tokens", flags.min_new_tokens, "Tokens before an answer may end").show_default();
  command.add_flag("--ignore-end", flags.ignores_end, "Goes on after the model's end token");
  command.add_option("--end-id", flags.end_ids, "Token id that ends an answer, beside the model's own (repeatable)")
      .one_value_each();
  command.add_option("--stop", flags.stop_strings, "Text before which an answer ends (repeatable)").one_value_each();
  command.add_flag("--greedy", flags.is_greedy, "Takes the likeliest token whatever the other flags say")
      .group(kSampling);
  command.add_option("--temperature", sampler.temperature, "Divides the logits; 0 is greedy")
      .show_default()
      .group(kSampling);
  command.add_option("--top-k", sampler.top_k, "Draws among the K likeliest (0: all)").show_default().group(kSampling);
  command.add_option("--top-p", sampler.top_p, "Draws among the likeliest whose probabilities sum to more than P")
      .show_default()
      .group(kSampling);
  command.add_option("--min-p", sampler.min_p, "Draws among those at least P times as likely as the likeliest")
      .show_default()
      .group(kSampling);
  command
      .add_option("--seed", sampler.seed, "Of the draws; the same seed gives the same answers on any number of ranks")
      .show_default()
      .group(kSampling);
  command.add_option("--forbid", sampler.forbidden_ids, "Token id that is never chosen (repeatable)")
      .one_value_each()
      .group(kSampling);
  command.add_option("--logit-bias", flags.logit_bias, "ID=NUMBER that is added to the token's logit (repeatable)")
      .one_value_each()
      .group(kSampling);
  add_penalty_options(command, flags);
}

GenerationRequest request_from_flags(const SamplingFlags& flags) {
  GenerationRequest request;
  request.sampling = flags.sampler;
  bool is_drawing = false;
  for (const char* name : {"--temperature", "--top-k", "--top-p", "--min-p"})
    is_drawing |= flags.command->count(name) > 0;
  request.sampling.greedy = flags.is_greedy || !is_drawing;
  if (!flags.penalty_range.empty()) request.sampling.penalty_range = {flags.penalty_range[0], flags.penalty_range[1]};
  request.sampling.window_mode = flags.window_mode == "block" ? PenaltyWindow::block : PenaltyWindow::sliding;
  for (const std::string& text : flags.logit_bias) request.sampling.logit_bias.push_back(parse_bias(text));
  request.max_new_tokens = flags.max_new_tokens;
  request.min_new_tokens = flags.min_new_tokens;
  request.stop_strings = flags.stop_strings;
  return request;
}

}  // namespace weft
