// weft serve: a model behind HTTP.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <utility>

#include "core/log.h"
#include "generate/request_support.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/interrupt.h"
#include "launcher/mpi_session.h"
#include "launcher/shared_feed.h"
#include "launcher/text_server.h"
#include "serve/http_server.h"
#include "tokenizer/chat_template.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft serve --model SmolLM2-135M-Instruct
  weft launch -n 2 -- serve --model Meta-Llama-3.1-8B-Instruct --context 16384 --batch 32     (two ranks share the weights)
  weft serve --model gemma-2-2b-it.gguf --quantize int8 --host 0.0.0.0 --port 8000
  curl localhost:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'
  curl localhost:8080/v1/completions -d '{"prompt": "Once upon", "max_tokens": 50, "stream": true}'
  weft serve --model all-MiniLM-L6-v2
  curl localhost:8080/v1/embeddings -d '{"input": ["A tensor is an array.", "Rain falls."]}'

The paths are OpenAI's, and so are the requests, so that its clients work with http://HOST:PORT/v1 as their base. An encoder
answers /v1/embeddings, a classifier of pairs with one label /v1/rerank. Answers of
all clients grow together, --batch at a time; others wait. A prompt that begins like an earlier one is computed from where they
part. /health says whether the server is up, /metrics counts for Prometheus. With WEFT_API_KEY set in the environment clients
have to send that key. Ctrl-C and SIGTERM end the server when what it has begun is answered; a second Ctrl-C at once.)";

struct ServeOptions {
  CommonOptions common;
  HttpServerOptions http;
  std::string name;
  std::string chat_format;
  int64_t batch = 8;
  int64_t max_waiting = 256;
  int64_t context = 0;
  int64_t max_new_tokens = 1024;
  int64_t prefill_chunk = 512;
  std::string pooling;
  bool embeds = false;
};

constexpr int64_t kUsualContext = 4096;

/// What fits a slot of the cache. A recurrent model keeps no tokens.
int64_t resolve_context(const ServeOptions& options, const ModelInfo& info) {
  if (info.is_recurrent) return options.context;
  int64_t most = info.max_positions;
  if (options.context == 0) return most > 0 ? std::min(most, kUsualContext) : kUsualContext;
  if (most > 0 && options.context > most) {
    fail(ExitCode::usage, "serve: --context {} is more than the model's {} tokens", options.context, most);
  }
  return options.context;
}

std::string resolve_name(const ServeOptions& options) {
  if (!options.name.empty()) return options.name;
  std::filesystem::path path = std::filesystem::path(options.common.model.path).lexically_normal();
  std::filesystem::path last = path.has_filename() ? path.filename() : path.parent_path().filename();
  std::string name = last.extension() == ".gguf" ? last.stem() : last;
  return name.empty() ? "model" : name;
}

ServedModel served_model(const ServeOptions& options, const InferenceModel& loaded) {
  const ModelInfo& info = loaded.model->info();
  const Tokenizer& tokenizer = *loaded.tokenizer;
  return {.name = resolve_name(options),
          .info = &info,
          .tokenizer = &tokenizer,
          .chat_format = options.chat_format,
          .context = resolve_context(options, info),
          .max_new_tokens = options.max_new_tokens,
          .end_ids = answer_end_ids(info, tokenizer.end_ids()),
          .chat_end_ids = answer_end_ids(info, chat_end_ids(tokenizer, options.chat_format))};
}

/// Closes the queue when a signal has come.
class ClosableFeed final : public RequestFeed {
 public:
  ClosableFeed(RequestQueue& queue, const InterruptFlag& interrupt) : queue_(queue), interrupt_(interrupt) {}

  Update next(int64_t places, bool is_idle) override {
    if (interrupt_.is_set() && !queue_.is_closed()) {
      log::info("no more requests are taken; what has begun is answered");
      queue_.close();
    }
    return queue_.next(places, is_idle);
  }

 private:
  RequestQueue& queue_;
  const InterruptFlag& interrupt_;
};

TextServerOptions text_server_options(const ServeOptions& options, const HttpServer* server) {
  return {.name = resolve_name(options),
          .address = server == nullptr ? "" : fmt::format("{}:{}", options.http.host, server->port()),
          .pooling = options.pooling,
          .max_length = options.context,
          .max_requests = 1 + options.max_waiting,
          .batch_tokens = options.prefill_chunk};
}

ExitCode run_serve(const ServeOptions& given, MpiSession& session) {
  ServeOptions options = given;
  options.common.model.encoder_alone = options.embeds;
  configure_log(options.common, session);
  bool is_rank_zero = session.rank() == 0;
  // Before the model, which may take long to load: a port that is taken should not.
  std::unique_ptr<HttpServer> server;
  if (is_rank_zero) server = std::make_unique<HttpServer>(options.http);
  auto loaded = load_model_for_inference(options.common, session);
  if (options.embeds || is_text_encoder(loaded->model->info())) {
    InterruptFlag interrupt(true, true);
    TextServerOptions texts = text_server_options(options, server.get());
    serve_texts(texts, *loaded, std::move(server), interrupt);
    report_memory(options.common, session, loaded->context);
    return ExitCode::ok;
  }
  ServedModel model = served_model(options, *loaded);
  Generator generator(loaded->context,
                      *loaded->model,
                      {.cache_dtype = loaded->dtype,
                       .max_batch = options.batch,
                       .prefill_chunk = options.prefill_chunk,
                       .tokenizer = loaded->tokenizer.get()});
  generator.reserve(options.batch, model.context, loaded->model->info().has_source ? model.context : 0);
  // One that does not end by its own: a server that drains needs the second signal for itself.
  InterruptFlag interrupt(true, true);
  Communicator& ranks = loaded->mesh->tensor_parallel();
  RequestQueue queue(options.batch + options.max_waiting, std::chrono::milliseconds(SharedFeed::kPollMs));
  ClosableFeed closable(queue, interrupt);
  GenerationHooks hooks;
  if (is_rank_zero) {
    hooks = queue.hooks();
    server->start(queue, model, [&generator](const GenerationRequest& request) { generator.check(request, 0); });
    log::info("{} answers at http://{}:{}, {} requests at a time of {} tokens",
              model.name,
              options.http.host,
              server->port(),
              options.batch,
              model.context > 0 ? std::to_string(model.context) : "any number of");
  }
  SharedFeed feed(loaded->context, ranks, is_rank_zero ? &closable : nullptr);
  generator.serve(feed, hooks);
  server.reset();
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

}  // namespace

void add_serve_command(Command program, CommandContext& context) {
  auto options = std::make_shared<ServeOptions>();
  if (const char* key = std::getenv("WEFT_API_KEY")) options->http.api_key = key;
  Command command = program.add_subcommand("serve", "Answers HTTP requests, as OpenAI's API");
  command.footer(kFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--host", options->http.host, "Address to listen on; 0.0.0.0: all of this host's").show_default();
  command.add_option("--port", options->http.port, "Port to listen on; 0: any that is free")
      .check_range(0, 65535)
      .show_default();
  command.add_option("--name", options->name, "What the model is called (default: its file's or folder's name)");
  command.add_option("--chat-format",
                     options->chat_format,
                     "Name of a built-in chat format (chatml, llama3, …) instead of the model's own");
  command.add_flag("--embeddings", options->embeds, "Answers with vectors of texts, as encoders do in any case");
  command
      .add_option(
          "--pooling",
          options->pooling,
          "Of vectors: mean or max of all tokens, the first token (cls) or the last one, or the pooler's output "
          "(pooled); if not given, as sentence-transformers' file beside the model says, else mean")
      .check_one_of({"mean", "max", "cls", "last", "pooled"});
  command.add_option("--batch", options->batch, "Answers that grow at a time").check_range(1, 4096).show_default();
  command
      .add_option("--max-waiting",
                  options->max_waiting,
                  "Answers (of vectors: requests) that may wait; a request beyond gets status 429")
      .check_range(0, 1 << 20)
      .show_default();
  command
      .add_option("--context",
                  options->context,
                  "Tokens of a prompt and its answer together, for which memory is reserved --batch times (0: the "
                  "model's, at most 4096), or of a text whose vector is asked for (0: as many as the model holds)")
      .check_range(0, 1 << 24)
      .show_default();
  command.add_option("--max-new-tokens", options->max_new_tokens, "Tokens of an answer whose request names no limit")
      .check_range(1, 1 << 24)
      .show_default();
  command.add_option("--prefill-chunk", options->prefill_chunk, "Tokens of prompts, or of texts, computed at a time")
      .check_range(1, 1 << 20)
      .show_default();
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_serve(*options, session); }; });
}

}  // namespace weft
