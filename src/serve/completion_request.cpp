#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <random>
#include <string_view>

#include "core/error.h"
#include "generate/request_support.h"
#include "serve/completion_api.h"
#include "serve/request_fields.h"
#include "tokenizer/chat_template.h"

namespace weft {

namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxChoices = 128;
constexpr int64_t kMaxTop = 20;
constexpr size_t kMaxStops = 64;
constexpr double kMaxAddition = 100;

/// {"ID": number, …}
std::vector<std::pair<int32_t, double>> read_bias(const Json& object, int64_t vocab_size) {
  std::vector<std::pair<int32_t, double>> biases;
  bool is_usable = object.is_object();
  for (auto entry = object.begin(); is_usable && entry != object.end(); ++entry) {
    const std::string& key = entry.key();
    int32_t id = -1;
    auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    is_usable = error == std::errc() && end == key.data() + key.size() && id >= 0 && id < vocab_size &&
                entry->is_number() && std::abs(entry->get<double>()) <= kMaxAddition;
    if (is_usable) biases.emplace_back(id, entry->get<double>());
  }
  if (!is_usable) {
    fail_input("'logit_bias' must be an object of token ids, 0 to {}, with numbers from {} to {}",
               vocab_size - 1,
               -kMaxAddition,
               kMaxAddition);
  }
  return biases;
}

SamplerOptions read_sampling(RequestFields& fields, int64_t vocab_size) {
  constexpr double kLargest = 1e4;
  SamplerOptions sampling;
  sampling.temperature = fields.number("temperature", 1, 0, kLargest);
  sampling.greedy = sampling.temperature == 0;
  sampling.top_p = fields.number("top_p", 1, 0, 1);
  sampling.min_p = fields.number("min_p", 0, 0, 1);
  // −1 is none to other servers.
  sampling.top_k = std::max<int64_t>(0, fields.integer("top_k", 0, -1, vocab_size));
  sampling.penalty = fields.number("repetition_penalty", 1, 1e-3, kLargest);
  sampling.presence_penalty = fields.number("presence_penalty", 0, -kMaxAddition, kMaxAddition);
  sampling.frequency_penalty = fields.number("frequency_penalty", 0, -kMaxAddition, kMaxAddition);
  if (const Json* bias = fields.find("logit_bias")) sampling.logit_bias = read_bias(*bias, vocab_size);
  int64_t seed = fields.integer("seed", -1, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  bool has_seed = fields.find("seed") != nullptr;
  sampling.seed =
      has_seed ? static_cast<uint64_t>(seed) : std::random_device()() + (uint64_t{std::random_device()()} << 32);
  return sampling;
}

std::vector<std::string> read_stops(RequestFields& fields) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return {};
  if (stop->is_string()) return {stop->get<std::string>()};
  bool is_list = stop->is_array() && stop->size() <= kMaxStops &&
                 std::ranges::all_of(*stop, [](const Json& text) { return text.is_string(); });
  if (!is_list) fail_input("'stop' must be a string or a list of at most {} strings", kMaxStops);
  return stop->get<std::vector<std::string>>();
}

std::vector<std::vector<int32_t>> read_prompts(RequestFields& fields, const ServedModel& model) {
  const Json* prompt = &fields.require("prompt");
  auto ids_of = [&](const Json& one) {
    return one.is_string() ? encode_prompt(*model.tokenizer, *model.info, one.get<std::string>())
                           : read_ids(one, "prompt");
  };
  bool is_several = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  if (!is_several) return {ids_of(*prompt)};
  std::vector<std::vector<int32_t>> prompts;
  for (const Json& one : *prompt) prompts.push_back(ids_of(one));
  return prompts;
}

/// A string, or parts of type text.
std::string read_content(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  bool is_usable = content.is_array();
  for (size_t i = 0; is_usable && i < content.size(); ++i) {
    const Json& part = content[i];
    is_usable =
        part.is_object() && part.value("type", "") == "text" && part.contains("text") && part["text"].is_string();
    if (is_usable) text += part["text"].get<std::string>();
  }
  if (!is_usable) fail_input("a message's 'content' must be text");
  return text;
}

std::vector<int32_t> read_conversation(RequestFields& fields, const ServedModel& model) {
  const Json* list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty()) fail_input("'messages' must be a list of messages");
  std::vector<ChatMessage> messages;
  for (const Json& message : *list) {
    bool is_usable =
        message.is_object() && message.contains("role") && message["role"].is_string() && message.contains("content");
    if (!is_usable) fail_input("a message is an object with 'role' and 'content'");
    std::string role = message["role"];
    messages.push_back({role == "developer" ? "system" : role, read_content(message["content"])});
  }
  return model.tokenizer->encode(render_chat(*model.tokenizer, messages, true, model.chat_format), false);
}

void set_limits(RequestFields& fields, const ServedModel& model, GenerationRequest& request) {
  constexpr int64_t kMost = int64_t{1} << 30;
  auto used = std::ssize(request.prompt);
  if (model.context > 0 && std::max(used, std::ssize(request.source)) >= model.context) {
    fail_input("the prompt has {} tokens, but this server's context is {} tokens for prompt and answer together",
               std::max(used, std::ssize(request.source)),
               model.context);
  }
  const char* field = fields.find("max_completion_tokens") != nullptr ? "max_completion_tokens" : "max_tokens";
  fields.pass_over({"max_tokens"});
  request.max_new_tokens = fields.integer(field, model.max_new_tokens, 1, kMost);
  if (model.context > 0) request.max_new_tokens = std::min(request.max_new_tokens, model.context - used);
  request.min_new_tokens = fields.integer("min_tokens", 0, 0, kMost);
}

int64_t read_logprobs(RequestFields& fields, CompletionKind kind) {
  if (kind == CompletionKind::completion) return fields.integer("logprobs", -1, 0, kMaxTop);
  int64_t top = fields.integer("top_logprobs", 0, 0, kMaxTop);
  return fields.boolean("logprobs", false) ? top : -1;
}

void refuse_rest(RequestFields& fields, CompletionKind kind) {
  fields.pass_over({"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"});
  if (kind == CompletionKind::completion) {
    fields.refuse("echo", {false});
    fields.refuse("suffix", {""});
    fields.refuse("best_of", {1});
  } else {
    fields.refuse("tools", {Json::array()});
    fields.refuse("tool_choice", {"none", "auto"});
    fields.refuse("response_format", {{{"type", "text"}}});
    fields.pass_over({"parallel_tool_calls"});
  }
  fields.refuse_unknown();
}

}  // namespace

CompletionRequest read_completion_request(CompletionKind kind, const std::string& body, const ServedModel& model) {
  RequestFields fields(body);
  CompletionRequest result{.kind = kind, .requests = {}};
  result.num_choices = fields.integer("n", 1, 1, kMaxChoices);
  result.is_streamed = fields.boolean("stream", false);
  if (const Json* options = fields.find("stream_options")) {
    result.includes_usage = options->is_object() && options->value("include_usage", false);
  }
  GenerationRequest pattern;
  pattern.sampling = read_sampling(fields, model.info->vocab_size);
  pattern.stop_strings = read_stops(fields);
  pattern.num_logprobs = read_logprobs(fields, kind);
  if (!fields.boolean("ignore_eos", false)) {
    pattern.end_ids = kind == CompletionKind::chat ? model.chat_end_ids : model.end_ids;
  }
  if (const Json* ids = fields.find("stop_token_ids")) {
    if (ids->size() > kMaxStops)
      fail_input("'stop_token_ids' holds {} ids, at most {} are taken", ids->size(), kMaxStops);
    for (int32_t id : read_ids(*ids, "stop_token_ids")) pattern.end_ids.push_back(id);
  }
  std::vector<std::vector<int32_t>> prompts;
  if (kind == CompletionKind::chat) {
    prompts.push_back(read_conversation(fields, model));
  } else {
    prompts = read_prompts(fields, model);
  }
  for (const std::vector<int32_t>& prompt : prompts) {
    GenerationRequest request = pattern;
    set_text(request, *model.info, prompt);
    set_limits(fields, model, request);
    for (int64_t choice = 0; choice < result.num_choices; ++choice) {
      request.sequence = result.requests.size();
      result.requests.push_back(request);
    }
  }
  refuse_rest(fields, kind);
  return result;
}

}  // namespace weft
