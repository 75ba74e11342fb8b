// weft classify: labels of texts from a tuned classifier.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "core/error.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "models/model_config.h"
#include "parallel/communicator.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Example:
  weft classify --model runs/fortunes-classifier/checkpoints/step-00000179 --text lines.txt

Prints a line a text: label, probability, text, with tabs between. A line with a tab is a pair of texts. Of a model with
one output, such as a reranker of pairs, the number is its sigmoid, or, of a regression, itself.)";

struct ClassifyCommand {
  CommonOptions common;
  std::string text_file;
  int64_t batch_texts = 64;
};

void add_text(Batch& batch, const std::string& line, const InferenceModel& loaded) {
  size_t tab = line.find('\t');
  std::optional<std::string_view> second;
  if (tab != std::string::npos) second = std::string_view(line).substr(tab + 1);
  PairEncoding encoding =
      loaded.tokenizer->encode_pair(std::string_view(line).substr(0, tab),
                                    second,
                                    {.max_length = static_cast<size_t>(loaded.model->info().max_positions)});
  batch.add(encoding.ids, encoding.segment_ids);
}

/// Whether a single output is the answer itself, a number of any size, and no logit: transformers' problem_type and
/// sentence-transformers' activation of its cross-encoders say so.
bool is_regression(const ModelConfig& config) {
  return config.string_or("problem_type", "") == "regression" ||
         config.string_or("sentence_transformers.activation_fn", "").ends_with("Identity");
}

/// Of a classifier with one output, [texts, 1].
void print_scores(const Tensor& logits,
                  const std::vector<std::string>& lines,
                  size_t first,
                  const OpenedModel& opened) {
  bool is_raw = is_regression(*opened.config);
  for (float value : to_floats(logits)) {
    double score = is_raw ? static_cast<double>(value) : 1 / (1 + std::exp(-static_cast<double>(value)));
    fmt::print("{}\t{:.4f}\t{}\n", opened.info().task_head.labels[0], score, lines[first++]);
  }
}

void print_rows(const Tensor& logits, const std::vector<std::string>& lines, size_t first, const ModelInfo& info) {
  auto classes = static_cast<size_t>(logits.size(1));
  std::vector<float> values = to_floats(logits);
  for (size_t r = 0; r * classes < values.size(); ++r) {
    const float* row = values.data() + r * classes;
    auto best = static_cast<size_t>(std::max_element(row, row + classes) - row);
    double sum = 0;
    for (size_t c = 0; c < classes; ++c) sum += std::exp(static_cast<double>(row[c]) - row[best]);
    fmt::print("{}\t{:.4f}\t{}\n", info.task_head.labels[best], 1 / sum, lines[first + r]);
  }
}

ExitCode run_classify(const ClassifyCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
  const ModelInfo& info = loaded->model->info();
  if (info.task_head.kind != TaskHead::Kind::sequence_classification) {
    fail_input("{}: has no classifier; train one with task.kind CLASSIFICATION", loaded->opened.path);
  }
  std::vector<std::string> lines = read_lines_on_all_ranks(options.text_file, *loaded);
  auto step = static_cast<size_t>(options.batch_texts);
  for (size_t begin = 0; begin < lines.size(); begin += step) {
    Batch batch;
    for (size_t i = begin; i < std::min(lines.size(), begin + step); ++i) add_text(batch, lines[i], *loaded);
    Tensor hidden = loaded->model->hidden(loaded->context, batch, nullptr);
    Tensor logits = loaded->model->task_logits(loaded->context, hidden, batch);
    if (session.rank() != 0) continue;
    if (info.task_head.labels.size() == 1) {
      print_scores(logits, lines, begin, loaded->opened);
    } else {
      print_rows(logits, lines, begin, info);
    }
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_classify_command(Command program, CommandContext& context) {
  auto options = std::make_shared<ClassifyCommand>();
  Command command = program.add_subcommand("classify", "Prints labels of texts");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--text", options->text_file, "File with a text a line; - is standard input").required();
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_classify(*options, session); };
  });
}

}  // namespace weft
