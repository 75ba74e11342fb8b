// weft generate: continues prompts.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>

#include "core/log.h"
#include "generate/beam_search.h"
#include "generate/request_support.h"
#include "launcher/answer_printer.h"
#include "launcher/beam_options.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/interrupt.h"
#include "launcher/line_feed.h"
#include "launcher/mpi_session.h"
#include "launcher/prompts.h"
#include "launcher/sampling_options.h"
#include "launcher/shared_feed.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft generate --model SmolLM2-135M-Instruct --chat "Why is the sky blue?"
  weft generate --model gemma-2-2b.gguf --prompt "Once upon" --temperature 0.8 --top-p 0.95 --seed 7
  weft generate --model Qwen2-7B --prompt-file questions.txt --chat --batch 16 --json > answers.jsonl
  weft generate --model Qwen2-7B --prompt-file conversations.jsonl --jsonl --json > answers.jsonl
  weft generate --model SmolLM2-135M --adapter runs/bible/checkpoints/step-00000200 --prompt "In the beginning"
  weft generate --model SmolLM2-135M-Instruct --chat "Name a colour" --beams 4 --num-return-sequences 4 --json
  tail -f questions.txt | weft generate --model SmolLM2-135M-Instruct --chat --follow --json
  cat article.txt | weft generate --model Meta-Llama-3-8B --prompt-file - --whole-file --max-new-tokens 200
  weft launch -n 2 -- generate --model SmolLM2-135M-Instruct --chat "Hello"     (two ranks share the weights)
  weft generate --model rwkv-6 --prompt-file book.txt --whole-file --save-session book.session
  weft generate --model rwkv-6 --session book.session "And then"                (the book is not computed again)

Standard output carries the answers only, one a prompt in the order of the prompts; with --json one object a line.)";

struct GenerateOptions {
  CommonOptions common;
  SamplingFlags sampling;
  BeamFlags beams;
  SessionFlags sessions;
  PromptOptions prompts;
  int64_t batch = 8;
  int64_t prefill_chunk = 512;
  int64_t num_return_sequences = 1;
  bool prints_json = false;
  bool is_streaming_off = false;
  bool follows = false;
  int64_t num_logprobs = -1;
  std::string condition;
};

/// A stream of prompts may bring more; what is given whole and is one answer is printed as it grows.
AnswerFormat answer_format(const GenerateOptions& options, size_t num_answers, const Tokenizer* tokenizer) {
  return {.is_json = options.prints_json,
          .is_ids = options.prompts.uses_ids,
          .is_streaming = num_answers == 1 && !options.prints_json && !options.is_streaming_off &&
                          !options.prompts.uses_ids && !options.beams.is_searching(),
          .has_score = options.beams.is_searching(),
          .answers_a_prompt = static_cast<size_t>(options.num_return_sequences),
          .tokenizer = tokenizer};
}

void check_usage(const GenerateOptions& options) {
  auto refuse = [](std::string_view what) { fail(ExitCode::usage, "generate: {}", what); };
  const PromptOptions& prompts = options.prompts;
  if (options.follows && prompts.are_given()) refuse("--follow takes its prompts from standard input alone");
  if (options.follows && (options.sessions.is_used() || options.beams.is_searching())) {
    refuse("--follow goes with neither sessions nor beams");
  }
  if (prompts.is_jsonl && prompts.file.empty() && !options.follows) refuse("--jsonl needs --prompt-file or --follow");
  if (options.num_logprobs >= 0 && (!options.prints_json || options.beams.is_searching())) {
    refuse("--logprobs needs --json and answers without beams");
  }
  if (!prompts.are_given() && !options.follows && options.sessions.from.empty()) {
    refuse("no prompt; give it as an argument, with --prompt, or with --prompt-file (- is standard input)");
  }
  if (options.prompts.uses_ids && options.prompts.is_chat) refuse("--ids and --chat exclude each other");
  if (prompts.takes_whole_file && prompts.file.empty()) refuse("--whole-file needs --prompt-file");
  if (options.sampling.min_new_tokens > options.sampling.max_new_tokens) {
    refuse(fmt::format("--min-new-tokens {} is more than --max-new-tokens {}",
                       options.sampling.min_new_tokens,
                       options.sampling.max_new_tokens));
  }
  bool has_chat_options = !options.prompts.system.empty() || !options.prompts.chat_format.empty();
  if (has_chat_options && !options.prompts.is_chat && !prompts.is_jsonl)
    refuse("--system and --chat-format need --chat");
  if (options.sessions.is_used() && (options.num_return_sequences > 1 || options.beams.is_searching())) {
    refuse("a session is of one answer, without beams");
  }
  if (!options.sessions.from.empty() && options.prompts.is_chat)
    refuse("--session and --chat exclude each other; use weft chat");
  SamplerOptions sampling = request_from_flags(options.sampling).sampling;
  check_sampler_options(sampling, std::numeric_limits<int32_t>::max());
  check_beam_flags(options.beams, options.num_return_sequences);
  if (options.beams.is_searching() && adds_to_logits(sampling)) {
    refuse("--presence-penalty, --frequency-penalty and --logit-bias do not go with --beams");
  }
  if (options.beams.is_searching() && sampling.temperature == 0) refuse("--beams needs a --temperature above 0");
  if (options.num_return_sequences > 1 && sampling.greedy && !options.beams.is_searching()) {
    refuse(
        "--num-return-sequences without sampling gives the same answer each time; add --temperature, --top-k or "
        "--top-p, or --beams");
  }
}

TokenizerUse tokenizer_use(const GenerateOptions& options) {
  if (!options.sampling.stop_strings.empty()) return TokenizerUse::all_ranks;
  return options.prompts.uses_ids ? TokenizerUse::nowhere : TokenizerUse::rank_zero;
}

std::vector<int32_t> end_ids_of(const InferenceModel& loaded, const GenerateOptions& options) {
  const ModelInfo& info = loaded.model->info();
  if (!loaded.tokenizer) return info.end_ids;
  const Tokenizer& tokenizer = *loaded.tokenizer;
  return answer_end_ids(
      info, options.prompts.is_chat ? chat_end_ids(tokenizer, options.prompts.chat_format) : tokenizer.end_ids());
}

std::vector<int32_t> ids_of(const GenerateOptions& options, const InferenceModel& loaded, const Prompt& prompt) {
  return ids_of_prompt(
      options.prompts, loaded.tokenizer.get(), loaded.model->info(), prompt, !options.sessions.from.empty());
}

/// The same on every rank; only rank 0 has the prompts' text and, mostly, the tokenizer. First the end ids, then the
/// prompts.
std::vector<std::vector<int32_t>> encode_on_all_ranks(const GenerateOptions& options,
                                                      const InferenceModel& loaded,
                                                      const std::vector<Prompt>& prompts) {
  std::vector<std::vector<int32_t>> lists;
  Communicator& ranks = loaded.mesh->tensor_parallel();
  if (ranks.rank() == 0) {
    lists.push_back(end_ids_of(loaded, options));
    for (const Prompt& prompt : prompts) lists.push_back(ids_of(options, loaded, prompt));
  }
  broadcast_ids(loaded.context, ranks, lists);
  if (options.sampling.ignores_end) lists[0].clear();
  lists[0].insert(lists[0].end(), options.sampling.end_ids.begin(), options.sampling.end_ids.end());
  return lists;
}

Condition condition_of(const GenerateOptions& options, const ModelInfo& info) {
  return options.condition.empty() ? Condition{} : parse_condition(info, options.condition, "--condition");
}

/// Adds the requests of one prompt; `count` is of those before it.
void add_requests(const GenerateOptions& options,
                  const ModelInfo& info,
                  const std::vector<int32_t>& end_ids,
                  const std::vector<int32_t>& prompt,
                  size_t count,
                  std::vector<GenerationRequest>& requests) {
  for (int64_t copy = 0; copy < options.num_return_sequences; ++copy) {
    GenerationRequest request = request_from_flags(options.sampling);
    set_text(request, info, prompt);
    request.condition = condition_of(options, info);
    request.end_ids = end_ids;
    request.num_logprobs = options.num_logprobs;
    request.sequence = count + static_cast<size_t>(copy);
    requests.push_back(std::move(request));
  }
}

std::vector<GenerationRequest> make_requests(const GenerateOptions& options,
                                             const ModelInfo& info,
                                             const std::vector<std::vector<int32_t>>& lists) {
  std::vector<GenerationRequest> requests;
  for (size_t prompt = 1; prompt < lists.size(); ++prompt) {
    add_requests(options, info, lists[0], lists[prompt], requests.size(), requests);
  }
  return requests;
}

std::vector<BeamRequest> make_beam_requests(const GenerateOptions& options,
                                            const ModelInfo& info,
                                            const std::vector<std::vector<int32_t>>& lists) {
  std::vector<BeamRequest> requests;
  for (size_t prompt = 1; prompt < lists.size(); ++prompt) {
    requests.push_back(beam_request_from_flags(options.beams, options.sampling, options.num_return_sequences));
    set_text(requests.back(), info, lists[prompt]);
    requests.back().condition = condition_of(options, info);
    requests.back().end_ids = lists[0];
  }
  return requests;
}

void log_stats(const GenerationStats& stats, size_t num_answers) {
  auto rate = [](int64_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; };
  log::info(
      "{} prompt tokens ({} more from the cache) in {:.2f} s, {:.1f} tokens/s; {} new tokens, decode {:.2f} s, {:.1f} "
      "tokens/s",
      stats.prompt_tokens,
      stats.reused_tokens,
      stats.prefill_seconds,
      rate(stats.prompt_tokens, stats.prefill_seconds),
      stats.new_tokens,
      stats.decode_seconds,
      rate(stats.new_tokens - static_cast<int64_t>(num_answers), stats.decode_seconds));
}

/// Where the answers go and what ends them before their time.
struct Answering {
  AnswerPrinter& printer;
  std::function<bool()> should_stop;
  bool is_printing = false;
};

/// The prompt becomes what follows a session's text.
void go_on_from_session(const std::string& path, Generator& generator, GenerationRequest& request) {
  Session session = generator.load_session(path);
  request.prompt.insert(request.prompt.begin(), session.ids.begin(), session.ids.end());
  if (request.prompt.size() > static_cast<size_t>(session.cached)) return;
  fail(ExitCode::usage,
       "generate: the session {} needs a prompt: nothing was drawn after its last token",
       printable(path));
}

GeneratorOptions generator_options(const GenerateOptions& options, const InferenceModel& loaded) {
  return {.cache_dtype = loaded.dtype,
          .max_batch = options.batch,
          .prefill_chunk = options.prefill_chunk,
          .tokenizer = loaded.tokenizer.get()};
}

GenerationHooks hooks_of(const Answering& answering) {
  GenerationHooks hooks;
  hooks.should_stop = answering.should_stop;
  if (answering.is_printing) {
    hooks.on_token = [&](const DrawnToken& token) { answering.printer.on_token(token); };
    hooks.on_finish = [&](size_t index, const GenerationResult& result) { answering.printer.on_finish(index, result); };
  }
  return hooks;
}

void draw_answers(const GenerateOptions& options,
                  InferenceModel& loaded,
                  std::vector<GenerationRequest> requests,
                  const Answering& answering) {
  if (options.sessions.is_used() && requests.size() != 1) {
    fail(ExitCode::usage, "generate: a session is of one prompt, not {}", requests.size());
  }
  Generator generator(loaded.context, *loaded.model, generator_options(options, loaded));
  GenerationHooks hooks = hooks_of(answering);
  if (!options.sessions.from.empty()) go_on_from_session(options.sessions.from, generator, requests[0]);
  generator.run(requests, hooks);
  log_stats(generator.stats(), requests.size());
  if (!options.sessions.to.empty()) generator.save_session(options.sessions.to);
}

/// Answers lines of standard input as they come; one that cannot be answered is no end of the others.
void follow_prompts(const GenerateOptions& options,
                    InferenceModel& loaded,
                    const std::vector<int32_t>& end_ids,
                    const Answering& answering) {
  Generator generator(loaded.context, *loaded.model, generator_options(options, loaded));
  size_t num_requests = 0;
  size_t num_lines = 0;
  auto add = [&](const std::string& line, std::vector<GenerationRequest>& requests) {
    std::vector<GenerationRequest> added;
    Prompt prompt{.text = line};
    ++num_lines;
    try {
      prompt = read_prompt(options.prompts, line, fmt::format("standard input:{}", num_lines));
      add_requests(options, loaded.model->info(), end_ids, ids_of(options, loaded, prompt), num_requests, added);
      for (size_t i = 0; i < added.size(); ++i) generator.check(added[i], num_requests + i);
    } catch (const Error& error) {
      if (error.code() != ExitCode::bad_input) throw;
      answering.printer.add_unusable_prompt(prompt, error.what());
      return;
    }
    num_requests += added.size();
    answering.printer.add_prompt(prompt);
    std::ranges::move(added, std::back_inserter(requests));
  };
  Communicator& ranks = loaded.mesh->tensor_parallel();
  LineFeed lines(add, ranks.size() == 1 ? -1 : SharedFeed::kPollMs);
  SharedFeed feed(loaded.context, ranks, ranks.rank() == 0 ? &lines : nullptr);
  generator.serve(feed, hooks_of(answering));
  log_stats(generator.stats(), num_requests);
}

void search_answers(const GenerateOptions& options,
                    InferenceModel& loaded,
                    const std::vector<BeamRequest>& requests,
                    const Answering& answering) {
  BeamSearch search(loaded.context,
                    *loaded.model,
                    {.cache_dtype = loaded.dtype,
                     .max_batch = options.batch,
                     .prefill_chunk = options.prefill_chunk,
                     .tokenizer = loaded.tokenizer.get()});
  BeamSearchHooks hooks;
  hooks.should_stop = answering.should_stop;
  if (answering.is_printing) {
    hooks.on_finish = [&](size_t prompt, const BeamResults& results) { answering.printer.on_finish(prompt, results); };
  }
  search.run(requests, hooks);
  log_stats(search.stats(), requests.size());
}

ExitCode run_generate(const GenerateOptions& options, MpiSession& session) {
  configure_log(options.common, session);
  check_usage(options);
  check_session_flags(options.sessions, options.common);
  std::vector<Prompt> prompts;
  if (session.rank() == 0 && !options.follows) prompts = collect_prompts(options.prompts);
  auto loaded = load_model_for_inference(options.common, session, tokenizer_use(options));
  std::vector<std::vector<int32_t>> lists = encode_on_all_ranks(options, *loaded, prompts);
  size_t num_answers = options.follows ? 0 : (lists.size() - 1) * static_cast<size_t>(options.num_return_sequences);
  AnswerPrinter printer(answer_format(options, num_answers, loaded->tokenizer.get()));
  for (const Prompt& prompt : prompts) printer.add_prompt(prompt);
  InterruptFlag interrupt(true);
  bool was_interrupted = false;
  auto should_stop = [&] { return was_interrupted = interrupt.is_set_on_rank_zero(loaded->context); };
  Answering answering{.printer = printer, .should_stop = should_stop, .is_printing = session.rank() == 0};
  if (options.follows) {
    follow_prompts(options, *loaded, lists[0], answering);
  } else if (options.beams.is_searching()) {
    search_answers(options, *loaded, make_beam_requests(options, loaded->model->info(), lists), answering);
  } else {
    draw_answers(options, *loaded, make_requests(options, loaded->model->info(), lists), answering);
  }
  report_memory(options.common, session, loaded->context);
  return was_interrupted ? ExitCode::interrupted : ExitCode::ok;
}

void add_options(Command command, GenerateOptions& options) {
  command.add_option("prompts", options.prompts.positional, "Prompts");
  command.add_option("-p,--prompt", options.prompts.named, "A prompt (repeatable)").one_value_each();
  command.add_option("--prompt-file", options.prompts.file, "File with a prompt a line; - is standard input");
  Option whole = command.add_flag("--whole-file", options.prompts.takes_whole_file, "The whole file is one prompt");
  command
      .add_flag("--jsonl",
                options.prompts.is_jsonl,
                "Lines are JSON objects with prompt, or messages of role and content, and an id that the answer gets")
      .excludes(whole);
  command
      .add_flag("--follow",
                options.follows,
                "Answers the lines of standard input as they come, several at a time, until it ends")
      .excludes(whole);
  command.add_flag("--chat", options.prompts.is_chat, "Puts each prompt into the model's chat format");
  command.add_option("--condition",
                     options.condition,
                     "What a model with conditional norms writes under: a label of its own, or a JSON list of numbers");
  command.add_option("--system", options.prompts.system, "System message, with --chat");
  command.add_option("--chat-format",
                     options.prompts.chat_format,
                     "Name of a built-in chat format (chatml, llama3, …) instead of the model's own, with --chat");
  Option ids =
      command.add_flag("--ids", options.prompts.uses_ids, "Prompts are token ids; the answers are printed as ids too");
  command.add_flag("--raw", options.prompts.is_raw, "Adds no special tokens to prompts").excludes(ids);
  command.add_flag(
      "--json", options.prints_json, "One JSON object a line: prompt, text, ids, finish_reason, tokens_per_second, …");
  command
      .add_option("--logprobs",
                  options.num_logprobs,
                  "With --json: each token's log probability, and the N likeliest tokens beside it")
      .check_range(0, 1000);
  command.add_flag("--no-stream", options.is_streaming_off, "Prints an answer when it is complete");
  command.add_option("--batch", options.batch, "Answers, or beams, that grow at a time")
      .check_range(1, 4096)
      .show_default();
  command.add_option("--prefill-chunk", options.prefill_chunk, "Prompt tokens computed at a time")
      .check_range(1, 1 << 20)
      .show_default();
  command.add_option("--num-return-sequences", options.num_return_sequences, "Answers a prompt")
      .check_range(1, 4096)
      .show_default();
}

}  // namespace

void add_generate_command(Command program, CommandContext& context) {
  auto options = std::make_shared<GenerateOptions>();
  Command command = program.add_subcommand("generate", "Continues prompts, or answers them with --chat");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  add_options(command, *options);
  add_sampling_options(command, options->sampling);
  add_beam_options(command, options->beams);
  add_session_options(command, options->sessions);
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_generate(*options, session); };
  });
}

}  // namespace weft
