#include "serve/http_server.h"

#include <fmt/format.h>
#include <httplib.h>

#include <ctime>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace weft {

namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;

constexpr const char* kJson = "application/json";
constexpr const char* kInvalidRequest = "invalid_request_error";
constexpr milliseconds kPoll{200};

std::string dump(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// A server-sent event. False where the client has gone.
bool send_event(httplib::DataSink& sink, const std::string& data) {
  std::string event = "data: " + data + "\n\n";
  return sink.write(event.data(), event.size());
}

/// Null is none.
bool send_event(httplib::DataSink& sink, const Json& object) {
  return object.is_null() || send_event(sink, dump(object));
}

void answer_error(httplib::Response& response, int status, const std::string& message, const std::string& type) {
  response.status = status;
  response.set_content(dump(error_object(message, type)), kJson);
}

/// A request that finds the server full, or closing.
struct Unavailable {
  bool is_closed = false;
};

void answer_unavailable(httplib::Response& response, const Unavailable& reason) {
  answer_error(response,
               reason.is_closed ? 503 : 429,
               reason.is_closed ? "the server is shutting down" : "the server is full; try again later",
               "server_error");
}

void add_metric(std::string& text, const char* name, const char* type, const char* help, int64_t value) {
  text += fmt::format("# HELP weft_{0} {2}\n# TYPE weft_{0} {1}\nweft_{0} {3}\n", name, type, help, value);
}

std::string text_metrics(const TextCounts& counts) {
  std::string text;
  add_metric(text, "requests_total", "counter", "Requests taken.", counts.requests);
  add_metric(
      text, "requests_refused_total", "counter", "Requests refused because the server was full.", counts.refused);
  add_metric(text, "texts_total", "counter", "Texts and pairs of texts that were answered.", counts.texts);
  add_metric(text, "texts_waiting", "gauge", "Texts that have not been computed.", counts.waiting);
  add_metric(text, "text_tokens_total", "counter", "Tokens of texts.", counts.tokens);
  return text;
}

/// A request on its way, kept while its answer is streamed.
struct Exchange {
  CompletionRequest request;
  std::unique_ptr<CompletionAnswer> answer;
  std::vector<std::shared_ptr<AnswerStream>> streams;
  std::vector<GenerationResult> results;
  std::vector<bool> is_finished;
  size_t num_finished = 0;
};

}  // namespace

struct HttpServer::Impl {
  explicit Impl(const HttpServerOptions& options_in) : options(options_in) {}

  void start(std::string served_name, std::function<std::string()> tell_metrics);
  void add_routes();
  void add_completion_routes();
  void add_route(const std::string& path, std::function<Json(const std::string& body)> answer);
  std::vector<float> rows_of(TextQueue& texts, std::vector<TokenisedText> given) const;
  bool is_allowed(const httplib::Request& request) const;
  void complete(CompletionKind kind, const httplib::Request& request, httplib::Response& response);
  void answer_whole(Exchange& exchange, httplib::Response& response) const;
  void answer_streamed(const std::shared_ptr<Exchange>& exchange, httplib::Response& response);
  bool send_parts(Exchange& exchange, httplib::DataSink& sink) const;
  std::string completion_metrics() const;

  HttpServerOptions options;
  int port = 0;
  httplib::Server server;
  std::thread thread;
  std::string name;
  std::function<std::string()> metrics;
  RequestQueue* queue = nullptr;
  const ServedModel* model = nullptr;
  std::function<void(const GenerationRequest&)> check;
  std::atomic<uint64_t> num_requests{0};
  int64_t started = std::time(nullptr);
};

HttpServer::HttpServer(const HttpServerOptions& options) : impl_(std::make_unique<Impl>(options)) {
  constexpr size_t kMaxBody = size_t{64} << 20;
  constexpr time_t kReadSeconds = 30;
  httplib::Server& server = impl_->server;
  server.new_task_queue = [count = options.max_connections] {
    return new httplib::ThreadPool(static_cast<size_t>(count));
  };
  server.set_payload_max_length(kMaxBody);
  server.set_read_timeout(kReadSeconds);
  server.set_tcp_nodelay(true);
  // The library's own options let several processes share a port, so that a second server would not notice the first.
  server.set_socket_options([](socket_t socket) {
    int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  impl_->port = options.port;
  bool is_bound = true;
  if (options.port == 0) {
    impl_->port = server.bind_to_any_port(options.host);
    is_bound = impl_->port > 0;
  } else {
    is_bound = server.bind_to_port(options.host, options.port);
  }
  if (!is_bound) {
    fail_input("{}:{} cannot be listened on; is another program there, or is the address another host's?",
               printable(options.host),
               options.port);
  }
}

HttpServer::~HttpServer() {
  impl_->server.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
}

int HttpServer::port() const {
  return impl_->port;
}

void HttpServer::start(RequestQueue& queue,
                       const ServedModel& model,
                       std::function<void(const GenerationRequest&)> check) {
  impl_->queue = &queue;
  impl_->model = &model;
  impl_->check = std::move(check);
  impl_->add_completion_routes();
  impl_->start(model.name, [this] { return impl_->completion_metrics(); });
}

void HttpServer::start(TextQueue& queue, const ServedEncoder& served, bool is_reranker) {
  if (is_reranker) {
    impl_->add_route("/v1/rerank", [this, &queue, &served](const std::string& body) {
      RerankRequest request = read_rerank_request(body, served);
      std::vector<float> outputs = impl_->rows_of(queue, std::move(request.pairs));
      return rerank_answer(request, served, outputs);
    });
  } else {
    impl_->add_route("/v1/embeddings", [this, &queue, &served](const std::string& body) {
      EmbeddingRequest request = read_embedding_request(body, served);
      std::vector<float> vectors = impl_->rows_of(queue, std::move(request.texts));
      return embedding_answer(request, served, vectors);
    });
  }
  impl_->start(served.name, [&queue] { return text_metrics(queue.counts()); });
}

void HttpServer::Impl::start(std::string served_name, std::function<std::string()> tell_metrics) {
  name = std::move(served_name);
  metrics = std::move(tell_metrics);
  add_routes();
  thread = std::thread([this] { server.listen_after_bind(); });
  // stop() has no effect before.
  while (!server.is_running()) std::this_thread::sleep_for(milliseconds(1));
}

bool HttpServer::Impl::is_allowed(const httplib::Request& request) const {
  return options.api_key.empty() || request.get_header_value("Authorization") == "Bearer " + options.api_key;
}

void HttpServer::Impl::add_routes() {
  server.set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr error) {
    try {
      std::rethrow_exception(std::move(error));
    } catch (const Unavailable& reason) {
      answer_unavailable(response, reason);
    } catch (const Error& known) {
      answer_error(response, 400, known.what(), kInvalidRequest);
    } catch (const std::exception& unknown) {
      log::error("a request failed: {}", unknown.what());
      answer_error(response, 500, unknown.what(), "server_error");
    }
  });
  server.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    if (request.path == "/health" || is_allowed(request)) return httplib::Server::HandlerResponse::Unhandled;
    answer_error(
        response, 401, "the Authorization header must be 'Bearer KEY' with this server's key", kInvalidRequest);
    return httplib::Server::HandlerResponse::Handled;
  });
  server.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    answer_error(response,
                 response.status,
                 fmt::format("{} {}: {}", request.method, request.path, response.status),
                 kInvalidRequest);
  });
  server.Get("/health", [](const httplib::Request&, httplib::Response& response) {
    response.set_content(R"({"status":"ok"})", kJson);
  });
  server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics(), "text/plain; version=0.0.4");
  });
  server.Get("/v1/models", [this](const httplib::Request&, httplib::Response& response) {
    Json entry = {{"id", name}, {"object", "model"}, {"created", started}, {"owned_by", "weft"}};
    response.set_content(dump({{"object", "list"}, {"data", Json::array({entry})}}), kJson);
  });
}

void HttpServer::Impl::add_completion_routes() {
  for (auto [path, kind] : {std::pair{"/v1/completions", CompletionKind::completion},
                            std::pair{"/v1/chat/completions", CompletionKind::chat}}) {
    server.Post(path, [this, kind = kind](const httplib::Request& request, httplib::Response& response) {
      complete(kind, request, response);
    });
  }
}

void HttpServer::Impl::add_route(const std::string& path, std::function<Json(const std::string& body)> answer) {
  server.Post(path, [answer = std::move(answer)](const httplib::Request& request, httplib::Response& response) {
    response.set_content(dump(answer(request.body)), kJson);
  });
}

std::vector<float> HttpServer::Impl::rows_of(TextQueue& texts, std::vector<TokenisedText> given) const {
  std::optional<std::future<std::vector<float>>> rows = texts.submit(std::move(given));
  if (!rows) throw Unavailable{texts.is_closed()};
  return rows->get();
}

void HttpServer::Impl::complete(CompletionKind kind, const httplib::Request& request, httplib::Response& response) {
  auto exchange = std::make_shared<Exchange>();
  exchange->request = read_completion_request(kind, request.body, *model);
  for (const GenerationRequest& one : exchange->request.requests) check(one);
  const char* prefix = kind == CompletionKind::chat ? "chatcmpl" : "cmpl";
  exchange->answer = std::make_unique<CompletionAnswer>(
      exchange->request, *model, fmt::format("{}-{:x}-{}", prefix, started, num_requests++), std::time(nullptr));
  size_t count = exchange->request.requests.size();
  exchange->streams = queue->submit(exchange->request.requests);
  if (exchange->streams.empty()) throw Unavailable{queue->is_closed()};
  exchange->results.resize(count);
  exchange->is_finished.resize(count);
  if (exchange->request.is_streamed) {
    answer_streamed(exchange, response);
  } else {
    answer_whole(*exchange, response);
  }
}

void HttpServer::Impl::answer_whole(Exchange& exchange, httplib::Response& response) const {
  for (size_t i = 0; i < exchange.streams.size(); ++i) {
    std::optional<GenerationResult> result;
    while (!result) result = exchange.streams[i]->wait(kPoll).result;
    exchange.results[i] = std::move(*result);
  }
  response.set_content(dump(exchange.answer->whole(exchange.results)), kJson);
}

/// As server-sent events.
void HttpServer::Impl::answer_streamed(const std::shared_ptr<Exchange>& exchange, httplib::Response& response) {
  auto provide = [this, exchange, has_begun = false](size_t, httplib::DataSink& sink) mutable {
    if (!has_begun) {
      has_begun = true;
      for (size_t i = 0; i < exchange->streams.size(); ++i) {
        if (!send_event(sink, exchange->answer->first_chunk(i))) return false;
      }
    }
    if (!send_parts(*exchange, sink)) return false;
    if (exchange->num_finished < exchange->streams.size()) return true;
    if (exchange->request.includes_usage && !send_event(sink, exchange->answer->usage_chunk(exchange->results)))
      return false;
    send_event(sink, std::string("[DONE]"));
    sink.done();
    return true;
  };
  auto release = [this, exchange](bool is_complete) {
    for (size_t i = 0; !is_complete && i < exchange->streams.size(); ++i) {
      if (!exchange->is_finished[i]) queue->cancel(exchange->streams[i].get());
    }
  };
  response.set_chunked_content_provider("text/event-stream", provide, release);
}

/// What the choices have to say now; waits a little where one of them has nothing. False: the client is gone.
bool HttpServer::Impl::send_parts(Exchange& exchange, httplib::DataSink& sink) const {
  for (size_t i = 0; i < exchange.streams.size(); ++i) {
    if (exchange.is_finished[i]) continue;
    // The choices of a request grow together: each wait is for the same step of the generator.
    AnswerStream::Part part = exchange.streams[i]->wait(exchange.streams.size() == 1 ? kPoll : milliseconds(5));
    Json object = exchange.answer->chunk(i, part);
    if (part.result) {
      exchange.results[i] = std::move(*part.result);
      exchange.is_finished[i] = true;
      ++exchange.num_finished;
    }
    if (object.is_null()) {
      if (!sink.is_writable()) return false;
      continue;
    }
    if (!send_event(sink, object)) return false;
  }
  return true;
}

std::string HttpServer::Impl::completion_metrics() const {
  const ServingCounts& counts = queue->counts();
  std::string text;
  add_metric(text, "requests_total", "counter", "Requests taken.", counts.requests);
  add_metric(
      text, "requests_refused_total", "counter", "Requests refused because the server was full.", counts.refused);
  add_metric(text, "answers_finished_total", "counter", "Answers that ended by themselves.", counts.finished);
  add_metric(text, "answers_cancelled_total", "counter", "Answers whose client left.", counts.cancelled);
  add_metric(text, "answers_waiting", "gauge", "Answers that have not begun.", counts.waiting);
  add_metric(text, "answers_running", "gauge", "Answers that grow.", counts.running);
  add_metric(text, "prompt_tokens_total", "counter", "Tokens of prompts that were answered.", counts.prompt_tokens);
  add_metric(text, "new_tokens_total", "counter", "Tokens drawn.", counts.new_tokens);
  return text;
}

}  // namespace weft
