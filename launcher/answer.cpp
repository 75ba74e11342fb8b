// weft answer: answers to questions out of texts, from a model that was trained for QUESTION_ANSWERING.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/question_data.h"
#include "data/text_places.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "tasks/answers.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft answer --model runs/minilm-answers/checkpoints/step-00000226 --question "Who said this?" --text text.txt
  weft answer --model tuned --file questions.jsonl

Prints a JSON object a question: the answer, its place in the text (start and end in characters, the end exclusive) and
its score. Long texts are read in windows. The file has objects with "question" and "context", or fields with tabs
between, as for task.kind QUESTION_ANSWERING.)";

struct AnswerCommand {
  CommonOptions common;
  std::string question, text_file, file;
  int64_t stride = 64;
  int64_t max_answer_length = 30;
  bool may_be_none = false;
  bool prints_json = true;  // there is no other form
};

struct Answer {
  TokenSpan place;
  float score = -std::numeric_limits<float>::infinity();
  float none_score = std::numeric_limits<float>::infinity();
};

std::vector<QuestionText> read_all(const AnswerCommand& options, const InferenceModel& loaded) {
  if (!options.file.empty()) return read_open_questions(options.file);
  if (options.question.empty() || options.text_file.empty()) {
    fail(ExitCode::usage, "give --question and --text, or --file");
  }
  std::string text;
  if (loaded.mesh->world().rank() == 0) text = read_text(options.text_file, "text");
  broadcast_string(loaded.context, loaded.mesh->world(), text);
  if (text.empty()) fail_input("{}: is empty", printable(options.text_file));
  return {{.question = options.question, .context = std::move(text), .answers = {}}};
}

Answer find_answer(const AnswerCommand& options, InferenceModel& loaded, const QuestionText& question) {
  std::vector<QuestionWindow> windows = make_windows(
      question.question, question.context, *loaded.tokenizer, loaded.model->info().max_positions, options.stride);
  Answer best;
  for (const QuestionWindow& window : windows) {
    Batch batch;
    batch.add(window.ids, window.segments);
    Tensor hidden = loaded.model->hidden(loaded.context, batch, nullptr);
    Tensor logits = loaded.model->task_logits(loaded.context, hidden, batch);
    TextTokens text = text_tokens(window.segments);
    PredictedAnswer answer = predict_answer(logits, 0, text.begin, text.end, options.max_answer_length);
    best.none_score = std::min(best.none_score, answer.none_score);
    if (answer.score <= best.score) continue;
    best.score = answer.score;
    best.place = {window.places[static_cast<size_t>(answer.first)].begin,
                  window.places[static_cast<size_t>(answer.last)].end};
  }
  return best;
}

std::string answer_line(const QuestionText& question, const Answer& answer, bool may_be_none) {
  Json line = {{"question", question.question}};
  if (may_be_none && answer.none_score > answer.score) {
    line["answer"] = nullptr;
    line["score"] = answer.none_score;
  } else {
    TokenSpan place = without_outer_spaces(question.context, answer.place);
    TokenSpan characters = to_characters(question.context, {place})[0];
    line["answer"] = question.context.substr(place.begin, place.end - place.begin);
    line["start"] = characters.begin;
    line["end"] = characters.end;
    line["score"] = answer.score;
  }
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ExitCode run_answer(const AnswerCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
  if (loaded->model->info().task_head.kind != TaskHead::Kind::question_answering) {
    fail_input("{}: has no layer for answers; train one with task.kind QUESTION_ANSWERING", loaded->opened.path);
  }
  for (const QuestionText& question : read_all(options, *loaded)) {
    Answer answer = find_answer(options, *loaded, question);
    if (session.rank() == 0) fmt::print("{}\n", answer_line(question, answer, options.may_be_none));
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_answer_command(Command program, CommandContext& context) {
  auto options = std::make_shared<AnswerCommand>();
  Command command = program.add_subcommand("answer", "Finds answers to questions in texts");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  Option question = command.add_option("--question", options->question, "The question");
  Option text = command.add_option("--text", options->text_file, "File with the text; - is standard input");
  command.add_option("--file", options->file, "File with questions and texts").excludes(question).excludes(text);
  command.add_option("--stride", options->stride, "Tokens that neighbouring windows of a long text share")
      .check_not_negative()
      .show_default();
  command.add_option("--max-answer-length", options->max_answer_length, "The longest answer in tokens")
      .check_positive()
      .show_default();
  command.add_flag("--may-be-none", options->may_be_none, "Prints null where the model finds no answer");
  command.add_flag("--json", options->prints_json, "Prints a JSON object a line, as it does without");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_answer(*options, session); }; });
}

}  // namespace weft
