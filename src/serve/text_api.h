// The requests and answers of embeddings (https://platform.openai.com/docs/api-reference/embeddings) and of rerankers,
// as Jina and Cohere have them (https://jina.ai/reranker).
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "generate/sentence_encoder.h"

namespace weft {

/// What texts are answered with.
struct ServedEncoder {
  std::string name;
  const ModelInfo* info = nullptr;
  const Tokenizer* tokenizer = nullptr;
  int64_t max_length = 0;     // tokens of a text or a pair; 0: any number
  bool is_score_raw = false;  // of a reranker: its output is the score itself and not its logit
};

struct EmbeddingRequest {
  std::vector<TokenisedText> texts;
  int64_t num_tokens = 0;
  int64_t dimensions = 0;
  bool is_base64 = false;
};

/// All throw Error(bad_input) naming the field that cannot be used.
EmbeddingRequest read_embedding_request(const std::string& body, const ServedEncoder& served);
/// From the texts' vectors, [texts, hidden_size]. Shorter dimensions are the vector's first, with the length 1 again.
nlohmann::ordered_json embedding_answer(const EmbeddingRequest& request,
                                        const ServedEncoder& served,
                                        std::span<const float> vectors);

struct RerankRequest {
  std::vector<TokenisedText> pairs;  // the query with each document
  int64_t num_tokens = 0;
  std::vector<std::string> documents;
  int64_t top = 0;
  bool returns_documents = false;
};

RerankRequest read_rerank_request(const std::string& body, const ServedEncoder& served);
/// From the pairs' outputs: the documents by falling score.
nlohmann::ordered_json rerank_answer(const RerankRequest& request,
                                     const ServedEncoder& served,
                                     std::span<const float> outputs);

}  // namespace weft
