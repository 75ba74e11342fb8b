// HTTP in front of a request queue: OpenAI's completions and chat completions, the list of models, health and counts.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "serve/completion_api.h"

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

  int port() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft
