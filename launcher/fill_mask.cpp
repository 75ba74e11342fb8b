// weft fill-mask: what a masked language model would put in place of [MASK].
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "ops/embedding.h"
#include "parallel/communicator.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Example:
  weft fill-mask --model bert-base-uncased "The capital of France is [MASK]."

Prints the likeliest tokens for each mask with their probabilities.)";

struct FillMaskCommand {
  CommonOptions common;
  std::string text;
  int64_t top = 5;
  bool prints_json = false;
};

struct Candidate {
  std::string token;
  double probability = 0;
};

/// The likeliest tokens of a row of logits.
std::vector<Candidate> candidates_of(const float* logits, const InferenceModel& loaded, int64_t top) {
  auto vocabulary = static_cast<size_t>(loaded.model->info().vocab_size);
  std::vector<int32_t> order(vocabulary);
  std::iota(order.begin(), order.end(), 0);
  auto count = std::min(static_cast<size_t>(top), vocabulary);
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), [&](int32_t a, int32_t b) {
        return logits[a] > logits[b];
      });
  double sum = 0;
  for (size_t i = 0; i < vocabulary; ++i) sum += std::exp(static_cast<double>(logits[i]) - logits[order[0]]);
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < count; ++i) {
    double probability = std::exp(static_cast<double>(logits[order[i]]) - logits[order[0]]) / sum;
    candidates.push_back({loaded.tokenizer->id_to_token(order[i]), probability});
  }
  return candidates;
}

void print_candidates(const std::vector<std::vector<Candidate>>& masks, bool prints_json) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::vector<Candidate>& mask : masks) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Candidate& candidate : mask) {
      list.push_back({{"token", candidate.token}, {"probability", candidate.probability}});
      if (!prints_json) fmt::print("{:.4f} {}\n", candidate.probability, candidate.token);
    }
    if (!prints_json && masks.size() > 1) fmt::print("\n");
    all.push_back(std::move(list));
  }
  if (prints_json) fmt::print("{}\n", all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

ExitCode run_fill_mask(const FillMaskCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
  if (!loaded->model->info().has_language_model_head) {
    fail_input("{}: has no masked language model's output layer", loaded->opened.path);
  }
  std::optional<int32_t> mask_id = loaded->tokenizer->mask_id();
  if (!mask_id) fail_input("{}: its tokenizer has no mask token", loaded->opened.path);
  std::vector<int32_t> ids = loaded->tokenizer->encode(options.text, true, SpecialsInText::recognised);
  std::vector<int32_t> places;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == *mask_id) places.push_back(static_cast<int32_t>(i));
  }
  if (places.empty()) fail_input("the text holds no {}", loaded->tokenizer->id_to_token(*mask_id));
  Batch batch;
  batch.add(ids);
  Tensor hidden = loaded->model->hidden(loaded->context, batch, nullptr);
  Tensor logits = on_host(loaded->model->logits(loaded->context, gather_rows(loaded->context, hidden, places)));
  if (session.rank() != 0) return ExitCode::ok;
  std::vector<std::vector<Candidate>> masks;
  for (int64_t row = 0; row < logits.size(0); ++row) {
    masks.push_back(candidates_of(logits.data<float>() + row * logits.size(1), *loaded, options.top));
  }
  print_candidates(masks, options.prints_json);
  return ExitCode::ok;
}

}  // namespace

void add_fill_mask_command(Command program, CommandContext& context) {
  auto options = std::make_shared<FillMaskCommand>();
  Command command = program.add_subcommand("fill-mask", "Fills masked tokens of a text");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("text", options->text, "The text, with the tokenizer's mask token where one is to be filled in")
      .required();
  command.add_option("--top", options->top, "Candidates a mask").check_positive().show_default();
  command.add_flag("--json", options->prints_json, "Prints a JSON array with an array a mask");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_fill_mask(*options, session); };
  });
}

}  // namespace weft
