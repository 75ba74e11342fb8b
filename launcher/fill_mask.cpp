// weft fill-mask: what a masked language model would put in place of [MASK].
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

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

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft fill-mask --model bert-base-uncased "The capital of France is [MASK]."
  weft fill-mask --model bert-base-uncased --text texts.txt --json

Prints the likeliest tokens for each mask with their probabilities, of a file's texts below each text. With --json an
object a text: the "text" and its "masks", a list each of "token" and "probability".)";

struct FillMaskCommand {
  CommonOptions common;
  std::string text, text_file;
  int64_t batch_texts = 64;
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

using Candidates = std::vector<std::vector<Candidate>>;  // of each mask

std::string json_line(const std::string& text, const Candidates& masks) {
  Json object = {{"text", text}, {"masks", Json::array()}};
  for (const std::vector<Candidate>& mask : masks) {
    Json list = Json::array();
    for (const Candidate& candidate : mask) {
      list.push_back({{"token", candidate.token}, {"probability", candidate.probability}});
    }
    object["masks"].push_back(std::move(list));
  }
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void print_candidates(const FillMaskCommand& options, const std::string& text, const Candidates& masks) {
  if (options.prints_json) {
    fmt::print("{}\n", json_line(text, masks));
    return;
  }
  bool is_one_of_many = !options.text_file.empty();
  if (is_one_of_many) fmt::print("{}\n", text);
  for (const std::vector<Candidate>& mask : masks) {
    for (const Candidate& candidate : mask) fmt::print("{:.4f} {}\n", candidate.probability, candidate.token);
    if (is_one_of_many || masks.size() > 1) fmt::print("\n");
  }
}

struct MaskedText {
  std::string text;
  std::vector<int32_t> ids = {};
  std::vector<int32_t> places = {};  // of masks among the ids
};

MaskedText find_masks(std::string text, const std::string& where, int32_t mask_id, const InferenceModel& loaded) {
  MaskedText masked{.text = std::move(text)};
  masked.ids = loaded.tokenizer->encode(masked.text, true, SpecialsInText::recognised);
  for (size_t i = 0; i < masked.ids.size(); ++i) {
    if (masked.ids[i] == mask_id) masked.places.push_back(static_cast<int32_t>(i));
  }
  if (masked.places.empty()) fail_input("{} holds no {}", where, loaded.tokenizer->id_to_token(mask_id));
  auto length = static_cast<int64_t>(masked.ids.size());
  int64_t limit = loaded.model->info().max_positions;
  if (limit > 0 && length > limit) fail_input("{} has {} tokens, the model holds {}", where, length, limit);
  return masked;
}

std::vector<MaskedText> read_texts(const FillMaskCommand& options, int32_t mask_id, const InferenceModel& loaded) {
  if (options.text_file.empty()) return {find_masks(options.text, "the text", mask_id, loaded)};
  std::vector<MaskedText> texts;
  for (std::string& line : read_lines_on_all_ranks(options.text_file, loaded)) {
    if (line.empty()) continue;
    std::string where = fmt::format("{}: text {}", printable(options.text_file), texts.size() + 1);
    texts.push_back(find_masks(std::move(line), where, mask_id, loaded));
  }
  if (texts.empty()) fail_input("{}: holds no text", printable(options.text_file));
  return texts;
}

void fill_batch(const FillMaskCommand& options, InferenceModel& loaded, std::span<const MaskedText> texts) {
  Batch batch;
  std::vector<int32_t> places;
  for (const MaskedText& text : texts) {
    for (int32_t place : text.places) places.push_back(static_cast<int32_t>(batch.num_tokens()) + place);
    batch.add(text.ids);
  }
  Tensor hidden = loaded.model->hidden(loaded.context, batch, nullptr);
  Tensor logits = on_host(loaded.model->logits(loaded.context, gather_rows(loaded.context, hidden, places)));
  if (loaded.mesh->world().rank() != 0) return;
  const float* row = logits.data<float>();
  for (const MaskedText& text : texts) {
    Candidates masks;
    for (size_t i = 0; i < text.places.size(); ++i, row += logits.size(1)) {
      masks.push_back(candidates_of(row, loaded, options.top));
    }
    print_candidates(options, text.text, masks);
  }
}

ExitCode run_fill_mask(const FillMaskCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (options.text.empty() == options.text_file.empty()) {
    fail(ExitCode::usage, "give a text, or --text with a file of them");
  }
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
  if (!loaded->model->info().has_language_model_head) {
    fail_input("{}: has no masked language model's output layer", loaded->opened.path);
  }
  std::optional<int32_t> mask_id = loaded->tokenizer->mask_id();
  if (!mask_id) fail_input("{}: its tokenizer has no mask token", loaded->opened.path);
  std::vector<MaskedText> texts = read_texts(options, *mask_id, *loaded);
  auto step = static_cast<size_t>(options.batch_texts);
  for (size_t begin = 0; begin < texts.size(); begin += step) {
    fill_batch(options, *loaded, std::span(texts).subspan(begin, std::min(step, texts.size() - begin)));
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_fill_mask_command(Command program, CommandContext& context) {
  auto options = std::make_shared<FillMaskCommand>();
  Command command = program.add_subcommand("fill-mask", "Fills masked tokens of a text");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  Option text = command.add_option(
      "text", options->text, "The text, with the tokenizer's mask token where one is to be filled in");
  command.add_option("--text", options->text_file, "File with a text a line; - is standard input").excludes(text);
  command.add_option("--top", options->top, "Candidates a mask").check_positive().show_default();
  command.add_flag("--json", options->prints_json, "Prints a JSON object a line");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_fill_mask(*options, session); };
  });
}

}  // namespace weft
