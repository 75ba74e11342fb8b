#include "tokenizer/tokenizer_settings.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "tokenizer/json_fields.h"
#include "tokenizer/text_file.h"

namespace weft {

namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 6> kWellKnownEnds = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>"};

std::optional<json> read_json(const std::string& path) {
  const std::optional<std::string> text = read_file_if_exists(path);
  if (!text) return std::nullopt;
  json value = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) fail_input("{}: not a valid JSON object; is the file complete?", path);
  return value;
}

/// A token is written as a string or as {"content": string, …}.
std::optional<std::string> read_token(const JsonFields& fields, std::string_view key) {
  const json* token = fields.find(key);
  if (token == nullptr) return std::nullopt;
  if (token->is_object()) return fields.object(key).string("content");
  return fields.string(key);
}

std::optional<bool> read_boolean(const JsonFields& fields, std::string_view key) {
  if (fields.find(key) == nullptr) return std::nullopt;
  return fields.boolean_or(key, false);
}

/// An id, or a list of them.
std::vector<int64_t> read_ids(const JsonFields& fields, std::string_view key) {
  const json* ids = fields.find(key);
  if (ids == nullptr) return {};
  if (ids->is_number_integer()) return {ids->get<int64_t>()};
  std::vector<int64_t> all;
  for (const json& id : fields.array(key)) {
    if (!id.is_number_integer()) fail_input("{}: '{}' should be an id or a list of ids", fields.where(), key);
    all.push_back(id.get<int64_t>());
  }
  return all;
}

/// A template is a string, or a list of {"name", "template"} of which "default" counts.
std::string read_template(const JsonFields& fields) {
  const json* value = fields.find("chat_template");
  if (value == nullptr || !value->is_array()) return fields.string_or("chat_template", "");
  for (const json& item : *value) {
    const JsonFields named(item, fields.where() + ": chat_template");
    if (named.string("name") == "default") return named.string("template");
  }
  return {};
}

/// Weft's own: "pre_tokenize": "words" and "word_dictionary", a file of the same folder.
void read_word_segmenter(const JsonFields& fields, const std::string& folder, TokenizerSettings& settings) {
  if (fields.find("pre_tokenize") != nullptr) {
    const std::string kind = fields.string("pre_tokenize");
    if (kind != "words") fail_input("{}: pre_tokenize is '{}', expected 'words'", fields.where(), printable(kind));
    settings.segments_words = true;
  }
  if (fields.find("word_dictionary") == nullptr) return;
  const std::string name = fields.string("word_dictionary");
  if (!settings.segments_words || name.empty() || name.find('/') != std::string::npos) {
    fail_input("{}: word_dictionary '{}' should name a file beside it, and goes with \"pre_tokenize\": \"words\"",
               fields.where(),
               printable(name));
  }
  settings.word_dictionary = folder + "/" + name;
}

void read_tokenizer_config(const std::string& folder, TokenizerSettings& settings) {
  const std::string path = folder + "/tokenizer_config.json";
  const std::optional<json> config = read_json(path);
  if (!config) return;
  const JsonFields fields(*config, path);
  settings.bos_token = read_token(fields, "bos_token");
  if (auto token = read_token(fields, "eos_token")) settings.end_tokens.push_back(std::move(*token));
  settings.chat_template = read_template(fields);
  settings.tokenizer_class = fields.string_or("tokenizer_class", "");
  settings.add_prefix_space = read_boolean(fields, "add_prefix_space");
  settings.add_bos_token = read_boolean(fields, "add_bos_token");
  settings.add_eos_token = read_boolean(fields, "add_eos_token");
  settings.lowercase = read_boolean(fields, "do_lower_case");
  settings.strip_accents = read_boolean(fields, "strip_accents");
  settings.handle_chinese_chars = read_boolean(fields, "tokenize_chinese_chars");
  read_word_segmenter(fields, folder, settings);
}

void read_ids_from_config(const std::string& path, TokenizerSettings& settings) {
  const std::optional<json> config = read_json(path);
  if (!config) return;
  const JsonFields fields(*config, path);
  for (const int64_t id : read_ids(fields, "eos_token_id")) settings.end_ids.push_back(id);
  const std::vector<int64_t> bos = read_ids(fields, "bos_token_id");
  if (!settings.bos_id && !bos.empty()) settings.bos_id = bos[0];
}

}  // namespace

TokenizerSettings read_tokenizer_settings(const std::string& folder) {
  TokenizerSettings settings;
  read_tokenizer_config(folder, settings);
  read_ids_from_config(folder + "/generation_config.json", settings);
  if (settings.end_ids.empty()) read_ids_from_config(folder + "/config.json", settings);
  if (auto text = read_file_if_exists(folder + "/chat_template.jinja")) {
    settings.chat_template = std::move(*text);
  } else if (const auto file = read_json(folder + "/chat_template.json"); file && settings.chat_template.empty()) {
    settings.chat_template = read_template(JsonFields(*file, folder + "/chat_template.json"));
  }
  return settings;
}

std::optional<int32_t> resolve_bos(const TokenizerSettings& settings, const VocabularyView& vocabulary) {
  if (settings.bos_token) {
    if (const auto id = vocabulary.find(*settings.bos_token)) return id;
  }
  if (settings.bos_id && *settings.bos_id >= 0 && *settings.bos_id < vocabulary.size) {
    return static_cast<int32_t>(*settings.bos_id);
  }
  return std::nullopt;
}

std::vector<int32_t> resolve_end_ids(const TokenizerSettings& settings, const VocabularyView& vocabulary) {
  std::vector<int32_t> ids;
  for (const std::string& token : settings.end_tokens) {
    if (const auto id = vocabulary.find(token)) ids.push_back(*id);
  }
  for (const int64_t id : settings.end_ids) {
    if (id >= 0 && id < vocabulary.size) ids.push_back(static_cast<int32_t>(id));
  }
  for (const std::string_view token : kWellKnownEnds) {
    const auto id = vocabulary.find(token);
    if (id && vocabulary.is_special(*id)) ids.push_back(*id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace weft
