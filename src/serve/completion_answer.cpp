#include "serve/completion_api.h"

#include <algorithm>
#include <span>

namespace weft {

namespace {

using Json = nlohmann::ordered_json;

const char* finish_reason(FinishReason reason) {
  switch (reason) {
    case FinishReason::length:
      return "length";
    case FinishReason::end:
    case FinishReason::stop:
      return "stop";
    case FinishReason::interrupted:
      return "abort";
  }
  return "";
}

std::vector<AnswerStream::Token> tokens_of(const GenerationResult& result) {
  std::vector<AnswerStream::Token> tokens;
  for (size_t i = 0; i < result.ids.size(); ++i) {
    tokens.push_back({.id = result.ids[i], .text = {}, .logprobs = std::nullopt});
    if (i < result.logprobs.size()) tokens.back().logprobs = result.logprobs[i];
  }
  return tokens;
}

Json bytes_of(const std::string& text) {
  Json bytes = Json::array();
  for (char byte : text) bytes.push_back(static_cast<uint8_t>(byte));
  return bytes;
}

}  // namespace

CompletionAnswer::CompletionAnswer(const CompletionRequest& request,
                                   const ServedModel& model,
                                   std::string id,
                                   int64_t created)
    : request_(request), model_(model), id_(std::move(id)), created_(created) {}

Json CompletionAnswer::envelope(bool is_chunk) const {
  const char* object = "text_completion";
  if (request_.kind == CompletionKind::chat) object = is_chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_.name}};
}

std::string CompletionAnswer::token_text(int32_t id) const {
  return model_.tokenizer->decode(std::span(&id, 1), false);
}

Json CompletionAnswer::logprobs(const std::vector<AnswerStream::Token>& tokens) const {
  if (tokens.empty() || !tokens.front().logprobs) return nullptr;
  if (request_.kind == CompletionKind::completion) {
    Json texts = Json::array(), values = Json::array(), tops = Json::array();
    for (const AnswerStream::Token& token : tokens) {
      texts.push_back(token_text(token.id));
      values.push_back(token.logprobs->logprob);
      Json top = Json::object();
      for (auto [id, logprob] : token.logprobs->top) top[token_text(id)] = logprob;
      tops.push_back(std::move(top));
    }
    return {{"tokens", texts}, {"token_logprobs", values}, {"top_logprobs", tops}};
  }
  auto describe = [&](int32_t id, float logprob) -> Json {
    std::string text = token_text(id);
    return {{"token", text}, {"logprob", logprob}, {"bytes", bytes_of(text)}};
  };
  Json content = Json::array();
  for (const AnswerStream::Token& token : tokens) {
    Json object = describe(token.id, token.logprobs->logprob);
    object["top_logprobs"] = Json::array();
    for (auto [id, logprob] : token.logprobs->top) object["top_logprobs"].push_back(describe(id, logprob));
    content.push_back(std::move(object));
  }
  return {{"content", content}};
}

Json CompletionAnswer::usage(const std::vector<GenerationResult>& results) const {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    if (static_cast<int64_t>(i) % request_.num_choices == 0) prompt_tokens += results[i].prompt_tokens;
    new_tokens += std::ssize(results[i].ids);
  }
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", new_tokens},
          {"total_tokens", prompt_tokens + new_tokens}};
}

Json CompletionAnswer::whole(const std::vector<GenerationResult>& results) const {
  Json answer = envelope(false);
  Json choices = Json::array();
  for (size_t i = 0; i < results.size(); ++i) {
    Json choice = {{"index", i}};
    if (request_.kind == CompletionKind::chat) {
      choice["message"] = {{"role", "assistant"}, {"content", results[i].text}};
    } else {
      choice["text"] = results[i].text;
    }
    choice["logprobs"] = logprobs(tokens_of(results[i]));
    choice["finish_reason"] = finish_reason(results[i].finish_reason);
    choices.push_back(std::move(choice));
  }
  answer["choices"] = std::move(choices);
  answer["usage"] = usage(results);
  return answer;
}

Json CompletionAnswer::first_chunk(size_t choice) const {
  if (request_.kind == CompletionKind::completion) return nullptr;
  Json answer = envelope(true);
  answer["choices"] = {
      {{"index", choice}, {"delta", {{"role", "assistant"}, {"content", ""}}}, {"finish_reason", nullptr}}};
  return answer;
}

Json CompletionAnswer::chunk(size_t choice, const AnswerStream::Part& part) const {
  std::string text;
  for (const AnswerStream::Token& token : part.tokens) text += token.text;
  Json probabilities = logprobs(part.tokens);
  if (text.empty() && probabilities.is_null() && !part.result) return nullptr;
  Json answer = envelope(true);
  Json object = {{"index", choice}};
  if (request_.kind == CompletionKind::chat) {
    object["delta"] = text.empty() ? Json::object() : Json{{"content", text}};
  } else {
    object["text"] = text;
  }
  object["logprobs"] = std::move(probabilities);
  object["finish_reason"] = part.result ? Json(finish_reason(part.result->finish_reason)) : Json(nullptr);
  answer["choices"] = Json::array({std::move(object)});
  return answer;
}

Json CompletionAnswer::usage_chunk(const std::vector<GenerationResult>& results) const {
  Json answer = envelope(true);
  answer["choices"] = Json::array();
  answer["usage"] = usage(results);
  return answer;
}

Json error_object(const std::string& message, const std::string& type) {
  return {{"error", {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}}}};
}

}  // namespace weft
