// Encoders behind HTTP: vectors of texts, or the scores of a reranker.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "models/model.h"

namespace weft {

class HttpServer;
class InterruptFlag;
struct InferenceModel;

struct TextServerOptions {
  std::string name;          // of the model
  std::string address;       // where it answers, for the log
  std::string pooling;       // empty: sentence-transformers' of the model, or mean
  int64_t max_length = 0;    // 0: sentence-transformers' of the model, or what it holds
  int64_t max_requests = 0;  // that wait or are being answered
  int64_t batch_tokens = 0;  // computed at a time
};

/// Whether a model answers with vectors or scores rather than with text.
bool is_text_encoder(const ModelInfo& info);

/// Answers until a signal has come and all that had begun is answered. All ranks call it; `given` is null on all but
/// rank 0. Throws Error(bad_input) for a model whose norms take a condition, or whose files ask for other pooling than
/// there is.
void serve_texts(const TextServerOptions& options,
                 InferenceModel& loaded,
                 std::unique_ptr<HttpServer> given,
                 const InterruptFlag& interrupt);

}  // namespace weft
