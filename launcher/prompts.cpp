#include "launcher/prompts.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "generate/request_support.h"
#include "launcher/common.h"

namespace weft {

namespace {

using Json = nlohmann::ordered_json;

/// "1 2 3" or "1, 2, 3"
std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char* end = text.data() + text.size();
  for (const char* place = text.data(); place != end;) {
    if (*place == ' ' || *place == ',' || *place == '\n' || *place == '\t' || *place == '[' || *place == ']') {
      ++place;
      continue;
    }
    int32_t id = 0;
    auto [after, error] = std::from_chars(place, end, id);
    if (error != std::errc()) fail_input("prompt \"{}\": --ids takes token ids, such as \"1 2 3\"", printable(text));
    ids.push_back(id);
    place = after;
  }
  return ids;
}

std::string text_field(const Json& object, const char* name, const std::string& where) {
  auto place = object.find(name);
  if (place == object.end() || !place->is_string()) fail_input("{}: '{}' must be text", where, name);
  return place->get<std::string>();
}

std::vector<ChatMessage> read_messages(const Json& list, const std::string& where) {
  bool is_list = list.is_array() && !list.empty();
  std::vector<ChatMessage> messages;
  for (const Json& message : list) {
    is_list = is_list && message.is_object();
    if (!is_list) break;
    messages.push_back({text_field(message, "role", where), text_field(message, "content", where)});
  }
  if (!is_list) fail_input("{}: 'messages' must be a list of objects with role and content", where);
  return messages;
}

}  // namespace

Prompt read_prompt(const PromptOptions& options, const std::string& line, const std::string& where) {
  if (!options.is_jsonl) return {.text = line};
  Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) fail_input("{}: not a JSON object", where);
  Prompt prompt;
  for (const auto& [name, value] : object.items()) {
    if (name == "id") {
      prompt.id = value.dump();
    } else if (name == "prompt") {
      prompt.text = text_field(object, "prompt", where);
    } else if (name == "messages") {
      prompt.messages = read_messages(value, where);
    } else {
      fail_input("{}: unknown field '{}'; a line has 'prompt' or 'messages', and 'id'", where, printable(name));
    }
  }
  if (object.contains("prompt") == object.contains("messages")) {
    fail_input("{}: a line has either 'prompt' or 'messages'", where);
  }
  if (!prompt.messages.empty() && options.uses_ids) fail_input("{}: --ids takes no 'messages'", where);
  return prompt;
}

std::vector<Prompt> collect_prompts(const PromptOptions& options) {
  std::vector<Prompt> prompts;
  for (const std::string& text : options.positional) prompts.push_back({.text = text});
  for (const std::string& text : options.named) prompts.push_back({.text = text});
  if (prompts.empty() && options.file.empty()) prompts.emplace_back();  // a session goes on without one
  if (options.file.empty()) return prompts;
  std::string text = read_text(options.file, "prompt file");
  if (options.takes_whole_file) {
    prompts.push_back({.text = std::move(text)});
    return prompts;
  }
  int64_t number = 0;
  for (const std::string& line : split_lines(text)) {
    ++number;
    if (!line.empty()) prompts.push_back(read_prompt(options, line, fmt::format("{}:{}", options.file, number)));
  }
  if (prompts.empty()) fail_input("prompt file {}: no prompt in it; write one a line", printable(options.file));
  return prompts;
}

Condition parse_condition(const ModelInfo& info, const std::string& text, const std::string& where) {
  if (!info.condition.is_there()) fail_input("{}: a condition was given to a model whose norms take none", where);
  if (!info.condition.labels.empty()) return {.label = condition_label(info.condition, text)};
  Json values = Json::parse(text, nullptr, false);
  bool is_list = values.is_array() && !values.empty();
  for (const Json& value : values) is_list = is_list && value.is_number();
  if (!is_list) fail_input("{}: is no list of numbers", where);
  return {.values = values.get<std::vector<float>>()};
}

std::vector<int32_t> ids_of_prompt(const PromptOptions& options,
                                   const Tokenizer* tokenizer,
                                   const ModelInfo& info,
                                   const Prompt& prompt,
                                   bool goes_on) {
  if (options.uses_ids) return parse_ids(prompt.text);
  bool is_chat = options.is_chat || !prompt.messages.empty();
  if (!is_chat && (options.is_raw || goes_on)) return tokenizer->encode(prompt.text, false);
  if (!is_chat) return encode_prompt(*tokenizer, info, prompt.text);
  std::vector<ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({"system", options.system});
  messages.insert(messages.end(), prompt.messages.begin(), prompt.messages.end());
  if (prompt.messages.empty()) messages.push_back({"user", prompt.text});
  return tokenizer->encode(render_chat(*tokenizer, messages, true, options.chat_format), false);
}

}  // namespace weft
