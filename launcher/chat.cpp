// weft chat: a conversation.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "core/log.h"
#include "generate/generator.h"
#include "generate/request_support.h"
#include "launcher/adapter_set.h"
#include "launcher/answer_printer.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/interrupt.h"
#include "launcher/line_reader.h"
#include "launcher/mpi_session.h"
#include "launcher/sampling_options.h"
#include "launcher/shared_feed.h"
#include "tokenizer/chat_template.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft chat --model SmolLM2-135M-Instruct
  weft chat --model gemma-2-2b-it.gguf --temperature 0.7 --top-p 0.9
  weft launch -n 2 -- chat --model Meta-Llama-3.1-8B-Instruct --system "Answer briefly."
  printf 'Hello\nAnd now in French\n' | weft chat --model SmolLM2-135M-Instruct --quiet
  weft chat --model SmolLM2-135M-Instruct --session talk.session --save-session talk.session

A line is a message. Commands: /reset forgets the conversation, /system TEXT sets the system message (and forgets),
/adapter NAME uses another adapter (none: none), /exit leaves, as does the end of the input. Ctrl-C stops the answer; at the prompt it leaves.)";

struct ChatOptions {
  CommonOptions common;
  SamplingFlags sampling;
  SessionFlags sessions;
  std::string system;
  std::string format;
};

/// What rank 0 makes of a line. The other ranks see only the resulting prompts.
class Conversation {
 public:
  Conversation(const ChatOptions& options, const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), format_(options.format) {
    set_system(options.system);
  }

  void set_system(const std::string& text) {
    messages_.clear();
    if (!text.empty()) messages_.push_back({"system", text});
  }
  void reset() {
    std::erase_if(messages_, [](const ChatMessage& message) { return message.role != "system"; });
  }

  std::vector<int32_t> ask(const std::string& text) {
    messages_.push_back({"user", text});
    return tokenizer_.encode(render_chat(tokenizer_, messages_, true, format_), false);
  }
  void answer(const std::string& text) { messages_.push_back({"assistant", text}); }
  void take_back() { messages_.pop_back(); }

  /// As a session's notes.
  std::string notes() const {
    nlohmann::json list = nlohmann::json::array();
    for (const ChatMessage& message : messages_) list.push_back({message.role, message.content});
    return list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  void restore(const std::string& path, const std::string& notes) {
    nlohmann::json list = nlohmann::json::parse(notes, nullptr, false);
    if (!list.is_array()) fail_input("{}: holds no conversation; weft generate goes on from it", printable(path));
    messages_.clear();
    for (const nlohmann::json& message : list) {
      bool is_pair = message.is_array() && message.size() == 2 && message[0].is_string() && message[1].is_string();
      if (!is_pair) fail_input("{}: a damaged session: a message is no pair of role and text", printable(path));
      messages_.push_back({message[0].get<std::string>(), message[1].get<std::string>()});
    }
  }

 private:
  const Tokenizer& tokenizer_;
  std::string format_;
  std::vector<ChatMessage> messages_;
};

/// Reads standard input on rank 0 and hands the prompts to all ranks.
class ChatInput {
 public:
  /// `on_adapter_switch` is called on every rank.
  ChatInput(Conversation* conversation,
            InferenceModel& loaded,
            InterruptFlag& interrupt,
            std::function<void()> on_adapter_switch)
      : conversation_(conversation),
        loaded_(loaded),
        interrupt_(interrupt),
        on_adapter_switch_(std::move(on_adapter_switch)),
        reader_(STDIN_FILENO) {}

  /// The next prompt; empty at the end of the conversation. The ranks that wait sleep most of the time, and the
  /// watchdog sees them alive.
  std::vector<int32_t> next_prompt() {
    Communicator& ranks = loaded_.mesh->tensor_parallel();
    if (ranks.rank() == 0) show_prompt();
    for (;;) {
      std::vector<std::vector<int32_t>> lists;
      if (ranks.rank() == 0) {
        lists = poll_input(ranks.size() == 1 ? -1 : SharedFeed::kPollMs);
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(SharedFeed::kPollMs));
      }
      broadcast_ids(loaded_.context, ranks, lists);
      if (lists.size() == 1) return lists[0];
      if (lists.size() == 2) switch_adapter(lists[1][0]);
    }
  }

 private:
  /// No list: nothing yet. One: a prompt, empty when the conversation is over. Two: the second holds the index of the
  /// adapter to use.
  std::vector<std::vector<int32_t>> poll_input(int timeout_ms) {
    std::string line;
    LineReader::State state = reader_.next(timeout_ms, line);
    if (interrupt_.is_set() || state == LineReader::State::end) {
      if (is_terminal_) std::fputs("\n", stderr);
      return {{}};
    }
    if (state == LineReader::State::nothing_yet) return {};
    if (line == "/exit" || line == "/quit") return {{}};
    if (!line.starts_with('/')) return ask(line);
    if (line.starts_with(kAdapter)) return choose_adapter(line.substr(kAdapter.size()));
    run_command(line);
    show_prompt();
    return {};
  }

  std::vector<std::vector<int32_t>> choose_adapter(const std::string& name) {
    show_prompt();
    try {
      return {{}, {loaded_.adapters->find(name)}};
    } catch (const Error& error) {
      log::error("{}", error.what());
      return {};
    }
  }

  void switch_adapter(int index) {
    loaded_.adapters->use(index);
    on_adapter_switch_();
  }

  std::vector<std::vector<int32_t>> ask(const std::string& line) {
    if (line.find_first_not_of(" \t") == std::string::npos) {
      show_prompt();
      return {};
    }
    return {conversation_->ask(line)};
  }

  void run_command(const std::string& line) {
    constexpr std::string_view kSystem = "/system ";
    if (line == "/reset") {
      conversation_->reset();
    } else if (line.starts_with(kSystem)) {
      conversation_->set_system(line.substr(kSystem.size()));
    } else {
      std::fputs("commands: /reset, /system TEXT, /adapter NAME, /exit; Ctrl-C stops an answer\n", stderr);
    }
  }

  void show_prompt() {
    if (is_terminal_) std::fputs("> ", stderr);
  }

  static constexpr std::string_view kAdapter = "/adapter ";

  Conversation* conversation_;
  InferenceModel& loaded_;
  InterruptFlag& interrupt_;
  std::function<void()> on_adapter_switch_;
  LineReader reader_;
  // mpirun stands between a terminal and the rank; weft launch says so.
  bool is_terminal_ = isatty(STDIN_FILENO) == 1 || std::getenv("WEFT_TERMINAL") != nullptr;
};

/// Answers one prompt on all ranks. A conversation that has outgrown the context is the user's to shorten, and no end
/// of the program.
void answer_prompt(Generator& generator,
                   const GenerationRequest& request,
                   const GenerationHooks& hooks,
                   Conversation* conversation) {
  try {
    GenerationResult result = generator.run(std::span(&request, 1), hooks)[0];
    if (!conversation) return;
    write_answer("\n");
    conversation->answer(result.text);
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_input) throw;
    if (!conversation) return;
    conversation->take_back();
    log::error("{}; /reset begins a new conversation", error.what());
  }
}

/// Ids that end an answer, from rank 0's tokenizer and the model's config.
std::vector<int32_t> agreed_end_ids(InferenceModel& loaded, const std::string& format) {
  std::vector<std::vector<int32_t>> lists(1);
  if (loaded.tokenizer) lists[0] = answer_end_ids(loaded.model->info(), chat_end_ids(*loaded.tokenizer, format));
  broadcast_ids(loaded.context, loaded.mesh->tensor_parallel(), lists);
  return lists[0];
}

ExitCode run_chat(const ChatOptions& options, MpiSession& session) {
  configure_log(options.common, session);
  GenerationRequest request = request_from_flags(options.sampling);
  check_sampler_options(request.sampling, std::numeric_limits<int32_t>::max());
  check_session_flags(options.sessions, options.common);
  if (!options.sessions.from.empty() && !options.system.empty()) {
    fail(ExitCode::usage, "chat: a session has its own system message; leave --system out");
  }
  bool all_ranks_decode = !request.stop_strings.empty();
  auto loaded = load_model_for_inference(
      options.common, session, all_ranks_decode ? TokenizerUse::all_ranks : TokenizerUse::rank_zero);
  bool is_rank_zero = session.rank() == 0;
  std::unique_ptr<Conversation> conversation;
  if (is_rank_zero) conversation = std::make_unique<Conversation>(options, *loaded->tokenizer);
  if (!options.sampling.ignores_end) request.end_ids = agreed_end_ids(*loaded, options.format);
  request.end_ids.insert(request.end_ids.end(), options.sampling.end_ids.begin(), options.sampling.end_ids.end());
  GeneratorOptions generator_options{
      .cache_dtype = loaded->dtype, .max_batch = 1, .tokenizer = loaded->tokenizer.get()};
  std::optional<Generator> generator(std::in_place, loaded->context, *loaded->model, generator_options);
  if (!options.sessions.from.empty()) {
    Session saved = generator->load_session(options.sessions.from);
    if (is_rank_zero) conversation->restore(options.sessions.from, saved.notes);
  }
  InterruptFlag interrupt(false);
  // The cache holds what the adapter before made of the conversation.
  ChatInput input(conversation.get(), *loaded, interrupt, [&] {
    generator.emplace(loaded->context, *loaded->model, generator_options);
  });
  GenerationHooks hooks;
  hooks.should_stop = [&] { return interrupt.is_set_on_rank_zero(loaded->context); };
  if (is_rank_zero) hooks.on_token = [](const DrawnToken& token) { write_answer(token.text); };
  for (;; ++request.sequence) {
    interrupt.clear();
    std::vector<int32_t> prompt = input.next_prompt();
    if (prompt.empty()) break;
    set_text(request, loaded->model->info(), prompt);
    answer_prompt(*generator, request, hooks, conversation.get());
  }
  if (!options.sessions.to.empty()) {
    generator->save_session(options.sessions.to, is_rank_zero ? conversation->notes() : "");
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_chat_command(Command program, CommandContext& context) {
  auto options = std::make_shared<ChatOptions>();
  constexpr int64_t kLongAnswer = 1024;
  options->sampling.max_new_tokens = kLongAnswer;
  Command command = program.add_subcommand("chat", "Talks with an instruct model");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--system", options->system, "System message");
  command.add_option("--chat-format",
                     options->format,
                     "Name of a built-in chat format (chatml, llama3, …) instead of the model's own");
  add_sampling_options(command, options->sampling);
  add_session_options(command, options->sessions);
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_chat(*options, session); }; });
}

}  // namespace weft
