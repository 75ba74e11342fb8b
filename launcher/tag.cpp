// weft tag: tags and entities of texts from a model that was trained for TAGGING or ENTITIES.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "data/entity_tags.h"
#include "data/tagged_data.h"
#include "data/text_places.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "tasks/entities.h"
#include "tasks/tagging.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft tag --model runs/minilm-tagging/checkpoints/step-00000225 --text lines.txt
  weft tag --model runs/minilm-tagging/checkpoints/step-00000225 --text words.txt --words

Prints a JSON object a line: the text and its entities with their places (start and end in characters, the end
exclusive); of a model whose tags mark no entities, the words and their tags.)";

struct TagCommand {
  CommonOptions common;
  std::string text_file;
  int64_t batch_texts = 64;
  bool prints_json = true;  // there is no other form
  bool has_words = false;
};

Json entity_json(const std::string& text, const TokenisedWords& tokens, const TaggedEntity& entity) {
  TokenSpan place{tokens.places[static_cast<size_t>(entity.first)].begin,
                  tokens.places[static_cast<size_t>(entity.last)].end};
  place = without_outer_spaces(text, place);
  TokenSpan characters = to_characters(text, {place})[0];
  return {{"start", characters.begin},
          {"end", characters.end},
          {"label", entity.label},
          {"text", text.substr(place.begin, place.end - place.begin)}};
}

/// From the tags of the first token of each word; an entity ends with the last token of its last word.
Json tagged_json(const std::string& text,
                 const TokenisedWords& tokens,
                 const TaskHead& head,
                 const Tensor& logits,
                 const Tensor& transitions,
                 int64_t begin) {
  std::vector<int32_t> rows, first_tokens;
  for (size_t t = 0; t < tokens.ids.size(); ++t) {
    if (tokens.unit[t] < 0 || (t > 0 && tokens.unit[t] == tokens.unit[t - 1])) continue;
    rows.push_back(static_cast<int32_t>(begin + static_cast<int64_t>(t)));
    first_tokens.push_back(static_cast<int32_t>(t));
  }
  std::vector<int32_t> tags = predict_tags(head, logits, transitions, rows);
  // The special token behind the last word.
  first_tokens.push_back(static_cast<int32_t>(tokens.ids.size()) - 1);
  auto tokens_of = [&](int32_t first, int32_t last) {
    return TaggedEntity{.label = {},
                        .first = first_tokens[static_cast<size_t>(first)],
                        .last = first_tokens[static_cast<size_t>(last) + 1] - 1};
  };
  Json result = {{"text", text}};
  if (marks_entities(head.labels)) {
    result["entities"] = Json::array();
    for (const TaggedEntity& entity : entities_of(tags, head.labels)) {
      TaggedEntity in_tokens = tokens_of(entity.first, entity.last);
      in_tokens.label = entity.label;
      result["entities"].push_back(entity_json(text, tokens, in_tokens));
    }
    return result;
  }
  result["tokens"] = result["tags"] = Json::array();
  for (size_t w = 0; w < tags.size(); ++w) {
    auto word = static_cast<int32_t>(w);
    result["tokens"].push_back(entity_json(text, tokens, tokens_of(word, word))["text"]);
    result["tags"].push_back(head.labels[static_cast<size_t>(tags[w])]);
  }
  return result;
}

Json marked_json(
    const std::string& text, const TokenisedWords& tokens, const TaskHead& head, const Tensor& logits, int64_t begin) {
  Json result = {{"text", text}, {"entities", Json::array()}};
  for (const PredictedMark& one : predict_marks(head, logits, begin, static_cast<int64_t>(tokens.ids.size()))) {
    bool is_text =
        tokens.unit[static_cast<size_t>(one.mark.first)] >= 0 && tokens.unit[static_cast<size_t>(one.mark.last)] >= 0;
    if (!is_text) continue;
    Json entity = entity_json(
        text,
        tokens,
        {.label = head.labels[static_cast<size_t>(one.mark.label)], .first = one.mark.first, .last = one.mark.last});
    entity["score"] = one.score;
    result["entities"].push_back(std::move(entity));
  }
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
    Json line = info.task_head.kind == TaskHead::Kind::global_pointer
                    ? marked_json(texts[i], tokens[i], info.task_head, logits, row)
                    : tagged_json(texts[i], tokens[i], info.task_head, logits, transitions, row);
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

ExitCode run_tag(const TagCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::all_ranks);
  TaskHead::Kind kind = loaded->model->info().task_head.kind;
  if (kind != TaskHead::Kind::token_classification && kind != TaskHead::Kind::crf &&
      kind != TaskHead::Kind::global_pointer) {
    fail_input("{}: has no layer for tags; train one with task.kind TAGGING or ENTITIES", loaded->opened.path);
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
  Command command = program.add_subcommand("tag", "Prints tags or entities of texts");
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
