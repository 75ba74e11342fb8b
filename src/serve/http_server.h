// HTTP in front of a queue of requests: OpenAI's completions and chat completions, or what an encoder answers at once;
// the list of models, health and counts.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve/completion_api.h"
#include "serve/text_api.h"
#include "serve/text_queue.h"

namespace weft {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;      // 0: any that is free
  std::string api_key;  // that clients have to send; empty: none
  int max_connections = 64;
};

class HttpServer {
 public:
  /// Takes the port, but answers nobody before start(). Throws Error(bad_input) when the port cannot be had.
  explicit HttpServer(const HttpServerOptions& options);
  /// Answers no more; waits for those that are being answered.
  ~HttpServer();

  /// `check` throws Error(bad_input) for a request that the generator would refuse. All must live as long as the
  /// server.
  void start(RequestQueue& queue, const ServedModel& model, std::function<void(const GenerationRequest&)> check);
  /// The same for an encoder, whose rows are vectors of texts or, of a reranker, what each pair's score is made of.
  void start(TextQueue& queue, const ServedEncoder& served, bool is_reranker);

  int port() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft
