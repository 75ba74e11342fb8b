// weft tag: tags, entities and relations of texts from a model that was trained for TAGGING, ENTITIES or RELATIONS.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "data/tagged_data.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "launcher/tag_lines.h"
#include "tasks/entities.h"
#include "tasks/relations.h"
#include "tasks/tagging.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft tag --model runs/minilm-tagging/checkpoints/step-00000225 --text lines.txt
  weft tag --model runs/minilm-tagging/checkpoints/step-00000225 --text words.txt --words

Prints a JSON object a line: the text and its entities with their places (start and end in characters, the end
exclusive); of a model whose tags mark no entities, the words and their tags; of one for relations, each relation's
subject, predicate and object.)";

struct TagCommand {
  CommonOptions common;
  std::string text_file;
  int64_t batch_texts = 64;
  bool prints_json = true;  // there is no other form
  bool has_words = false;
};

Json tagged_json(const std::string& text,
                 const TokenisedWords& tokens,
                 const TaskHead& head,
                 const Tensor& logits,
                 const Tensor& transitions,
                 int64_t begin) {
  std::vector<int32_t> rows = first_tokens_of_words(tokens);
  for (int32_t& row : rows) row += static_cast<int32_t>(begin);
  Json result = {{"text", text}};
  result.update(tags_json(text, tokens, predict_tags(head, logits, transitions, rows), head));
  return result;
}

Json marked_json(
    const std::string& text, const TokenisedWords& tokens, const TaskHead& head, const Tensor& logits, int64_t begin) {
  Json result = {{"text", text}};
  std::vector<PredictedMark> marks = predict_marks(head, logits, begin, static_cast<int64_t>(tokens.ids.size()));
  result.update(marks_json(text, tokens, marks, head));
  return result;
}

Json related_json(
    const std::string& text, const TokenisedWords& tokens, const TaskHead& head, const Tensor& logits, int64_t begin) {
  Json result = {{"text", text}};
  std::vector<RowRelation> relations = predict_relations(head, logits, begin, std::ssize(tokens.ids));
  result["relations"] = relations_json(text, tokens, relations, head);
  return result;
}

/// Words as they stand between spaces and tabs: of each token the place of its whole word.
TokenisedWords tokenise_spaced_words(const std::string& text, const Tokenizer& tokenizer, int64_t max_length) {
  constexpr std::string_view kSpaces = " \t";
  std::vector<std::string> words;
  std::vector<TokenSpan> places;
  for (size_t begin = text.find_first_not_of(kSpaces); begin != std::string::npos;) {
    size_t end = std::min(text.find_first_of(kSpaces, begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    places.push_back({begin, end});
    begin = text.find_first_not_of(kSpaces, end);
  }
  TokenisedWords tokens = tokenise_words(words, tokenizer, max_length);
  for (int32_t unit : tokens.unit) {
    tokens.places.push_back(unit < 0 ? TokenSpan{} : places[static_cast<size_t>(unit)]);
  }
  return tokens;
}

/// Tokens of some texts, of which a warning counts those that the model has no room for.
std::vector<TokenisedWords> tokenise(const TagCommand& options,
                                     const InferenceModel& loaded,
                                     const std::vector<std::string>& texts) {
  constexpr int64_t kUncut = int64_t{1} << 30;
  int64_t limit = loaded.model->info().max_positions;
  auto tokenised = [&](const std::string& text, int64_t max_length) {
    return options.has_words ? tokenise_spaced_words(text, *loaded.tokenizer, max_length)
                             : tokenise_text(text, *loaded.tokenizer, max_length);
  };
  std::vector<TokenisedWords> all;
  size_t cut = 0;
  for (const std::string& text : texts) {
    all.push_back(tokenised(text, kUncut));
    if (limit == 0 || static_cast<int64_t>(all.back().ids.size()) <= limit) continue;
    all.back() = tokenised(text, limit);
    ++cut;
  }
  if (cut > 0) log::warning("{} of {} texts were cut to {} tokens", cut, texts.size(), limit);
  return all;
}

void print_batch(InferenceModel& loaded,
                 const std::vector<std::string>& texts,
                 const std::vector<TokenisedWords>& tokens,
                 size_t begin,
                 size_t end,
                 bool prints) {
  const ModelInfo& info = loaded.model->info();
  Batch batch;
  for (size_t i = begin; i < end; ++i) batch.add(tokens[i].ids);
  Tensor hidden = loaded.model->hidden(loaded.context, batch, nullptr);
  Tensor logits = loaded.model->task_logits(loaded.context, hidden, batch);
  Tensor transitions = loaded.model->task_transitions();
  for (size_t i = begin; prints && i < end; ++i) {
    int64_t row = batch.sequences[i - begin].begin;
    const TaskHead& head = info.task_head;
    Json line = head.kind == TaskHead::Kind::global_pointer ? marked_json(texts[i], tokens[i], head, logits, row)
                : head.kind == TaskHead::Kind::relations
                    ? related_json(texts[i], tokens[i], head, logits, row)
                    : tagged_json(texts[i], tokens[i], head, logits, transitions, row);
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

ExitCode run_tag(const TagCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
  TaskHead::Kind kind = loaded->model->info().task_head.kind;
  if (kind != TaskHead::Kind::token_classification && kind != TaskHead::Kind::crf &&
      kind != TaskHead::Kind::global_pointer && kind != TaskHead::Kind::relations) {
    fail_input("{}: has no layer for tags; train one with task.kind TAGGING, ENTITIES or RELATIONS",
               loaded->opened.path);
  }
  std::vector<std::string> texts = read_lines_on_all_ranks(options.text_file, *loaded);
  std::vector<TokenisedWords> tokens = tokenise(options, *loaded, texts);
  auto step = static_cast<size_t>(options.batch_texts);
  for (size_t begin = 0; begin < texts.size(); begin += step) {
    print_batch(*loaded, texts, tokens, begin, std::min(texts.size(), begin + step), session.rank() == 0);
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_tag_command(Command program, CommandContext& context) {
  auto options = std::make_shared<TagCommand>();
  Command command = program.add_subcommand("tag", "Prints tags, entities or relations of texts");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--text", options->text_file, "File with a text a line; - is standard input").required();
  command.add_flag("--json", options->prints_json, "Prints a JSON object a line, as it does without");
  command.add_flag("--words",
                   options->has_words,
                   "Takes what stands between spaces as the words, as data with a word a line has them");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_tag(*options, session); }; });
}

}  // namespace weft
