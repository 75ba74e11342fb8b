// The completion requests and answers of OpenAI's HTTP API (https://platform.openai.com/docs/api-reference), which the
// clients of this field speak.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "serve/request_queue.h"

namespace weft {

/// What the server answers with, and what a request that does not say otherwise gets.
struct ServedModel {
  std::string name;
  const ModelInfo* info = nullptr;
  const Tokenizer* tokenizer = nullptr;
  std::string chat_format;            // of render_chat
  int64_t context = 0;                // tokens of a prompt and its answer; 0: any number
  int64_t max_new_tokens = 0;         // where a request names none
  std::vector<int32_t> end_ids;       // of completions
  std::vector<int32_t> chat_end_ids;  // of conversations
};

enum class CompletionKind : uint8_t { completion, chat };

/// A request as it was read.
struct CompletionRequest {
  CompletionKind kind = CompletionKind::completion;
  std::vector<GenerationRequest> requests;  // `num_choices` a prompt
  int64_t num_choices = 1;
  bool is_streamed = false;
  bool includes_usage = false;  // a last streamed object with it
};

/// Reads the body of a request. Throws Error(bad_input) naming the field that cannot be used: one that is unknown, of
/// the wrong type or range, or asks for something that the server does not have.
CompletionRequest read_completion_request(CompletionKind kind, const std::string& body, const ServedModel& model);

/// The objects that answer one request.
class CompletionAnswer {
 public:
  /// Keeps references. `id` is unique, `created` seconds since 1970.
  CompletionAnswer(const CompletionRequest& request, const ServedModel& model, std::string id, int64_t created);

  /// The whole answer from one result a request.
  nlohmann::ordered_json whole(const std::vector<GenerationResult>& results) const;

  /// What opens a choice when it is streamed; null for completions, which need none.
  nlohmann::ordered_json first_chunk(size_t choice) const;
  /// Tokens of a choice, and with its last part why it ended; null when neither says anything.
  nlohmann::ordered_json chunk(size_t choice, const AnswerStream::Part& part) const;
  /// The numbers of tokens, behind all choices.
  nlohmann::ordered_json usage_chunk(const std::vector<GenerationResult>& results) const;

 private:
  nlohmann::ordered_json envelope(bool is_chunk) const;
  nlohmann::ordered_json logprobs(const std::vector<AnswerStream::Token>& tokens) const;
  nlohmann::ordered_json usage(const std::vector<GenerationResult>& results) const;
  std::string token_text(int32_t id) const;

  const CompletionRequest& request_;
  const ServedModel& model_;
  std::string id_;
  int64_t created_;
};

/// An error in the form that clients know. `type`: "invalid_request_error", "server_error", …
nlohmann::ordered_json error_object(const std::string& message, const std::string& type);

}  // namespace weft
