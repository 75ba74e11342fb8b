// weft classify: labels of texts from a tuned classifier.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "launcher/tokenise_texts.h"
#include "models/sentence_settings.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft classify --model runs/fortunes-classifier/checkpoints/step-00000179 --text lines.txt
  weft classify --model tuned --text pairs.tsv --json --top 3

Prints a line a text: label, probability, text, with tabs between. A line with a tab is a pair of texts. With --json an
object a line: "text", or "first" and "second" of a pair, the "label", its "probability", and the "labels" with theirs, the
likeliest first. A model of several labels a text (task.multilabel) gives all above its threshold, with commas between, and as
many probabilities; with --json as the list "above_threshold". Of a model with one output, such as a reranker of pairs, the number
is its sigmoid, or, of a regression, itself; with --json it is the "score".)";

struct ClassifyCommand {
  CommonOptions common;
  std::string text_file;
  int64_t batch_texts = 64;
  int64_t top = 0;
  bool prints_json = false;
};

/// A label of the task by its index.
struct RatedLabel {
  size_t label = 0;
  double probability = 0;
};

void sort_by_probability(std::vector<RatedLabel>& labels) {
  std::ranges::stable_sort(labels, std::greater(), &RatedLabel::probability);
}

/// All labels, the likeliest first.
std::vector<RatedLabel> rate_labels(const float* logits, size_t classes) {
  std::vector<RatedLabel> labels(classes);
  float best = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (size_t c = 0; c < classes; ++c) {
    labels[c] = {.label = c, .probability = std::exp(static_cast<double>(logits[c]) - best)};
    sum += labels[c].probability;
  }
  for (RatedLabel& label : labels) label.probability /= sum;
  sort_by_probability(labels);
  return labels;
}

/// A model of several labels a text: each by itself.
std::vector<RatedLabel> rate_separate_labels(const float* logits, size_t classes) {
  std::vector<RatedLabel> labels(classes);
  for (size_t c = 0; c < classes; ++c) {
    labels[c] = {.label = c, .probability = 1 / (1 + std::exp(-static_cast<double>(logits[c])))};
  }
  return labels;
}

bool is_above_threshold(const RatedLabel& label) {
  constexpr double kThreshold = 0.5;
  return label.probability > kThreshold;
}

Json text_object(const std::string& line) {
  TextOrPair texts = split_at_tab(line);
  Json object;
  object[texts.second ? "first" : "text"] = texts.first;
  if (texts.second) object["second"] = *texts.second;
  return object;
}

std::string dump(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string json_line(const std::string& line, std::vector<RatedLabel> labels, const TaskHead& head, int64_t top) {
  Json object = text_object(line);
  if (head.multilabel) {
    object["above_threshold"] = Json::array();
    for (const RatedLabel& label : labels) {
      if (is_above_threshold(label)) object["above_threshold"].push_back(head.labels[label.label]);
    }
    sort_by_probability(labels);
  } else {
    object["label"] = head.labels[labels[0].label];
    object["probability"] = labels[0].probability;
  }
  object["labels"] = Json::array();
  size_t count = top > 0 ? std::min(labels.size(), static_cast<size_t>(top)) : labels.size();
  for (size_t i = 0; i < count; ++i) {
    object["labels"].push_back({{"label", head.labels[labels[i].label]}, {"probability", labels[i].probability}});
  }
  return dump(object);
}

/// The likeliest label, or all above the threshold.
std::string text_line(const std::string& line, const std::vector<RatedLabel>& labels, const TaskHead& head) {
  std::vector<std::string> names, probabilities;
  for (const RatedLabel& label : labels) {
    bool is_given = head.multilabel ? is_above_threshold(label) : names.empty();
    if (!is_given) continue;
    names.push_back(head.labels[label.label]);
    probabilities.push_back(fmt::format("{:.4f}", label.probability));
  }
  return fmt::format("{}\t{}\t{}", fmt::join(names, ","), fmt::join(probabilities, ","), line);
}

/// Of a classifier with one output, [texts, 1].
void print_scores(const ClassifyCommand& options,
                  const Tensor& logits,
                  const std::vector<std::string>& lines,
                  size_t first,
                  const OpenedModel& opened) {
  bool is_raw = is_regression(*opened.config);
  for (float value : to_floats(logits)) {
    double score = is_raw ? static_cast<double>(value) : 1 / (1 + std::exp(-static_cast<double>(value)));
    const std::string& line = lines[first++];
    if (options.prints_json) {
      Json object = text_object(line);
      object["label"] = opened.info().task_head.labels[0];
      object["score"] = score;
      fmt::print("{}\n", dump(object));
    } else {
      fmt::print("{}\t{:.4f}\t{}\n", opened.info().task_head.labels[0], score, line);
    }
  }
}

void print_rows(const ClassifyCommand& options,
                const Tensor& logits,
                const std::vector<std::string>& lines,
                size_t first,
                const TaskHead& head) {
  auto classes = static_cast<size_t>(logits.size(1));
  std::vector<float> values = to_floats(logits);
  for (size_t r = 0; r * classes < values.size(); ++r) {
    const std::string& line = lines[first + r];
    const float* row = values.data() + r * classes;
    std::vector<RatedLabel> labels = head.multilabel ? rate_separate_labels(row, classes) : rate_labels(row, classes);
    fmt::print("{}\n",
               options.prints_json ? json_line(line, labels, head, options.top) : text_line(line, labels, head));
  }
}

ExitCode run_classify(const ClassifyCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::rank_zero);
  const ModelInfo& info = loaded->model->info();
  if (info.task_head.kind != TaskHead::Kind::sequence_classification) {
    fail_input("{}: has no classifier; train one with task.kind CLASSIFICATION", loaded->opened.path);
  }
  std::vector<std::string> lines = read_lines_on_all_ranks(options.text_file, *loaded);
  std::vector<TokenisedText> texts = tokenise_lines(*loaded, lines, info.max_positions);
  auto step = static_cast<size_t>(options.batch_texts);
  for (size_t begin = 0; begin < lines.size(); begin += step) {
    Batch batch;
    for (size_t i = begin; i < std::min(lines.size(), begin + step); ++i) add_text(texts[i], batch);
    Tensor hidden = loaded->model->hidden(loaded->context, batch, nullptr);
    Tensor logits = loaded->model->task_logits(loaded->context, hidden, batch);
    if (session.rank() != 0) continue;
    if (info.task_head.labels.size() == 1 && !info.task_head.multilabel) {
      print_scores(options, logits, lines, begin, loaded->opened);
    } else {
      print_rows(options, logits, lines, begin, info.task_head);
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
  Option json = command.add_flag("--json", options->prints_json, "Prints a JSON object a line");
  command.add_option("--top", options->top, "With --json: labels a text (0: all)")
      .check_not_negative()
      .show_default()
      .needs(json);
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_classify(*options, session); };
  });
}

}  // namespace weft
