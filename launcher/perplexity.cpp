// weft perplexity: how well a model predicts a text.
#include "generate/perplexity.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft perplexity --model SmolLM2-135M-Instruct --text book.txt
  weft perplexity --model Meta-Llama-3-8B --text wiki.test.raw --context 4096 --stride 2048 --json
  weft launch -n 2 -- perplexity --model gemma-2-9b --text book.txt --max-tokens 10000

Prints one line, such as: perplexity 8.2025 (2000 tokens, nll 2.1044))";

struct PerplexityCommand {
  CommonOptions common;
  PerplexityOptions windows;
  std::string text_file;
  int64_t max_tokens = 0;
  bool is_raw = false;
  bool prints_json = false;
};

/// The tokens of the text, on all ranks.
std::vector<int32_t> read_tokens(const PerplexityCommand& options, const InferenceModel& loaded) {
  std::vector<std::vector<int32_t>> lists;
  Communicator& ranks = loaded.mesh->tensor_parallel();
  if (ranks.rank() == 0) {
    lists.push_back(loaded.tokenizer->encode(read_text(options.text_file, "text"), !options.is_raw));
    auto limit = static_cast<size_t>(options.max_tokens);
    if (limit > 0 && lists[0].size() > limit) lists[0].resize(limit);
  }
  broadcast_ids(loaded.context, ranks, lists);
  return lists[0];
}

void print_result(const PerplexityCommand& options, const PerplexityResult& result, size_t num_tokens) {
  if (!options.prints_json) {
    fmt::print("perplexity {:.4f} ({} tokens, nll {:.4f})\n", result.perplexity, num_tokens, result.nll);
    return;
  }
  nlohmann::ordered_json object = {{"perplexity", result.perplexity},
                                   {"nll", result.nll},
                                   {"tokens", num_tokens},
                                   {"scored_tokens", result.scored_tokens}};
  fmt::print("{}\n", object.dump());
}

/// A line every few seconds.
std::function<void(int64_t, double)> progress_logger(int64_t work) {
  using Clock = std::chrono::steady_clock;
  static constexpr auto kInterval = std::chrono::seconds(3);
  return [work, next = Clock::now() + kInterval](int64_t tokens, double nll) mutable {
    if (Clock::now() < next || tokens == work) return;
    next = Clock::now() + kInterval;
    log::info("{} of {} tokens, perplexity {:.4f} so far", tokens, work, std::exp(nll));
  };
}

ExitCode run_perplexity(const PerplexityCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::rank_zero);
  if (loaded->model->info().has_source) {
    fail_input("{}: {} is an encoder-decoder, which predicts a text from a source; perplexity takes decoders",
               loaded->opened.path,
               loaded->model->info().family);
  }
  std::vector<int32_t> ids = read_tokens(options, *loaded);
  PerplexityOptions windows = options.windows;
  windows.cache_dtype = loaded->dtype;
  windows.on_progress =
      progress_logger(perplexity_work(loaded->model->info(), static_cast<int64_t>(ids.size()), windows));
  PerplexityResult result = measure_perplexity(loaded->context, *loaded->model, ids, windows);
  if (session.rank() == 0) print_result(options, result, ids.size());
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_perplexity_command(Command program, CommandContext& context) {
  auto options = std::make_shared<PerplexityCommand>();
  Command command = program.add_subcommand("perplexity", "Measures how well a model predicts a text");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--text", options->text_file, "The text; - is standard input").required();
  command.add_option("--context", options->windows.context, "Tokens a window (0: the model's context, at most 2048)")
      .check_not_negative()
      .show_default();
  command.add_option("--stride", options->windows.stride, "From one window's begin to the next one's (0: no overlap)")
      .check_not_negative()
      .show_default();
  command.add_option("--max-tokens", options->max_tokens, "Uses the first N tokens of the text (0: all)")
      .check_not_negative()
      .show_default();
  command.add_flag("--raw", options->is_raw, "Adds no special tokens to the text");
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_perplexity(*options, session); };
  });
}

}  // namespace weft
