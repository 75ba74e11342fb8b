// weft prepare: text and JSON lines to a token file for training.
#include "data/prepare.h"

#include <fmt/format.h>

#include <memory>

#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft prepare --tokenizer SmolLM2-135M --out books.tokens books/*.txt             a document a file
  weft prepare --tokenizer SmolLM2-135M --out news.tokens news.jsonl               {"text": …} a line
  weft prepare --tokenizer SmolLM2-135M-Instruct --out chats.tokens chats.jsonl    {"messages": [{"role": …, "content": …}]} a line
  weft prepare --tokenizer Meta-Llama-3-8B --out tasks.tokens tasks.jsonl          {"prompt": …, "completion": …} a line
  weft prepare --tokenizer SmolLM2-135M --out alpaca.tokens alpaca_data.json       [{"instruction": …, "input": …, "output": …}, …]
  weft prepare --tokenizer SmolLM2-135M --out qa.tokens qa.jsonl --field prompt=question --field completion=answer

Of conversations only the assistant's answers are learned, of prompts only their completions. A preparation that was killed
goes on where it was when the same command is given again. More in docs/data.md.)";

struct PrepareCommand {
  CommonOptions common;
  std::string tokenizer;
  PrepareOptions prepare;
  std::string format;
  std::vector<std::string> fields;
  bool splits_lines = false;
  bool splits_blank_lines = false;
};

ExitCode run_prepare(PrepareCommand options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  PrepareOptions& prepare = options.prepare;
  if (options.format == "text") prepare.format = InputFormat::text;
  if (options.format == "jsonl") prepare.format = InputFormat::json_lines;
  if (options.splits_lines) prepare.text_split = TextSplit::lines;
  if (options.splits_blank_lines) prepare.text_split = TextSplit::paragraphs;
  prepare.documents.field_names = parse_field_names(options.fields);
  prepare.num_threads = resolve_threads(options.common, session);
  prepare.show_progress = !options.common.quiet;
  const PrepareStatistics statistics = prepare_tokens(prepare, load_tokenizer(options.tokenizer));
  fmt::print("{}: {} documents, {} tokens, {} of them learned; longest document {}; {:.2f} bytes a token\n",
             prepare.output,
             statistics.num_documents,
             statistics.num_tokens,
             statistics.num_scored_tokens,
             statistics.longest_document,
             static_cast<double>(statistics.input_bytes) / static_cast<double>(statistics.num_tokens));
  if (prepare.skip_bad_lines) fmt::print("{} bad lines skipped\n", statistics.num_skipped_lines);
  return ExitCode::ok;
}

void add_document_options(Command command, PrepareCommand& options) {
  Option lines = command.add_flag("--split-lines", options.splits_lines, "A document a line of text files");
  command.add_flag("--split-blank-lines", options.splits_blank_lines, "A document a paragraph of text files")
      .excludes(lines);
  command.add_option("--format", options.format, "text or jsonl, whatever the inputs' names end in")
      .check_one_of({"text", "jsonl"});
  command
      .add_option("--field",
                  options.fields,
                  "NAME=FIELD takes a record's FIELD as what is called NAME (text, prompt, completion, …); repeatable")
      .one_value_each();
  DocumentEncoderOptions& documents = options.prepare.documents;
  command.add_option("--chat-format",
                     documents.chat_format,
                     "llama3, llama3.1, chatml or gemma, where the tokenizer comes without a chat template");
  command.add_flag("!--no-special-tokens",
                   documents.special_tokens,
                   "Leaves out what the tokenizer puts before and after a text, such as a begin token");
  command.add_flag(
      "--separate", documents.separate_texts, "Encodes prompt and completion each by itself, for SEQUENCE_TO_SEQUENCE");
  Option no_end = command.add_flag("!--no-end-token", documents.end_token, "No token ends a text or completion");
  command
      .add_option(
          "--end-token", documents.end_token_text, "The token that does, instead of the tokenizer's end of text")
      .excludes(no_end);
}

}  // namespace

void add_prepare_command(Command program, CommandContext& context) {
  auto options = std::make_shared<PrepareCommand>();
  Command command = program.add_subcommand("prepare", "Turns text or JSON lines into a token file for training");
  command.footer(kFooter);
  command
      .add_option("--tokenizer", options->tokenizer, "Model folder, tokenizer.json, sentencepiece .model or .gguf file")
      .required();
  command.add_option("-o,--out", options->prepare.output, "The token file").required();
  command.add_option("inputs", options->prepare.inputs, "Text (.txt) and JSON (.jsonl, .json) files").required();
  add_document_options(command, *options);
  command.add_flag("--skip-bad-lines", options->prepare.skip_bad_lines, "Counts unusable lines of JSON and goes on");
  command.add_flag("--restart", options->prepare.restart, "Begins anew instead of going on after a kill");
  add_threads_option(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_prepare(*options, session); }; });
}

}  // namespace weft
