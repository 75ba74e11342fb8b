#include "models/model_config.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "ops/activation.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr std::streamoff kMaxJsonBytes = 16 << 20;

class JsonConfig final : public ModelConfig {
 public:
  JsonConfig(Json root, std::string path) : root_(std::move(root)), path_(std::move(path)) {}

  const std::string& path() const override { return path_; }
  std::vector<std::string> keys_read() const override {
    std::lock_guard lock(mutex_);
    return {keys_read_.begin(), keys_read_.end()};
  }
  bool has(std::string_view key) const override { return find(key) != nullptr; }

  std::optional<int64_t> find_integer(std::string_view key) const override {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    return to_integer(*value, key);
  }
  std::optional<double> find_number(std::string_view key) const override {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>() ? 1 : 0;
    if (!value->is_number()) wrong_type(key, *value, "a number");
    return value->get<double>();
  }
  std::optional<bool> find_boolean(std::string_view key) const override {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>();
    int64_t number = to_integer(*value, key);
    if (number != 0 && number != 1) wrong_type(key, *value, "true or false");
    return number == 1;
  }
  std::optional<std::string> find_string(std::string_view key) const override {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) wrong_type(key, *value, "a string");
    return value->get<std::string>();
  }
  bool is_string(std::string_view key) const override {
    const Json* value = find(key);
    return value != nullptr && value->is_string();
  }
  std::vector<WeightedIds> weighted_ids(std::string_view key) const override {
    std::vector<WeightedIds> result;
    for_each(key, [&](const Json& item) {
      WeightedIds& one = result.emplace_back();
      bool has_weights = item.is_array() && item.size() == 2 && item[0].is_array() && item[1].is_array();
      const Json& ids = has_weights ? item[0] : item;
      if (!ids.is_array() || ids.empty()) wrong_type(key, item, "a list of lists of token ids");
      for (const Json& id : ids) one.ids.push_back(to_integer(id, key));
      if (!has_weights) return;
      for (const Json& weight : item[1]) {
        if (!weight.is_number()) wrong_type(key, item, "weights that are numbers");
        one.weights.push_back(weight.get<double>());
      }
      if (one.weights.size() != one.ids.size()) wrong_type(key, item, "as many weights as token ids");
    });
    return result;
  }
  std::vector<int64_t> integers(std::string_view key) const override {
    std::vector<int64_t> result;
    for_each(key, [&](const Json& value) { result.push_back(to_integer(value, key)); });
    return result;
  }
  std::vector<std::string> strings(std::string_view key) const override {
    std::vector<std::string> result;
    for_each(key, [&](const Json& value) {
      if (!value.is_string()) wrong_type(key, value, "a list of strings");
      result.push_back(value.get<std::string>());
    });
    return result;
  }

 private:
  const Json* find(std::string_view key) const {
    {
      std::lock_guard lock(mutex_);
      keys_read_.emplace(key.substr(0, key.find('.')));
    }
    const Json* node = &root_;
    while (!key.empty()) {
      size_t dot = key.find('.');
      if (!node->is_object()) return nullptr;
      auto found = node->find(std::string(key.substr(0, dot)));
      if (found == node->end() || found->is_null()) return nullptr;
      node = &*found;
      key = dot == std::string_view::npos ? std::string_view{} : key.substr(dot + 1);
    }
    return node;
  }

  template <typename Visit>
  void for_each(std::string_view key, const Visit& visit) const {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (value->is_array()) {
      for (const Json& item : *value) visit(item);
    } else {
      visit(*value);
    }
  }

  int64_t to_integer(const Json& value, std::string_view key) const {
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      wrong_type(key, value, "an integer");
    if (value.is_number_integer()) return value.get<int64_t>();
    if (value.is_number_float()) {
      double number = value.get<double>();
      if (std::floor(number) == number && std::abs(number) < 1e15) return static_cast<int64_t>(number);
    }
    wrong_type(key, value, "an integer");
  }

  [[noreturn]] void wrong_type(std::string_view key, const Json& value, const char* expected) const {
    fail_input("{}: '{}' is {}, expected {}",
               path_,
               key,
               printable(value.dump(-1, ' ', true, Json::error_handler_t::replace), 60),
               expected);
  }

  Json root_;
  std::string path_;
  mutable std::mutex mutex_;  // ranks that are threads share a config
  mutable std::set<std::string> keys_read_;
};

class GgufConfig final : public ModelConfig {
 public:
  explicit GgufConfig(std::shared_ptr<const GgufMetadata> metadata) : metadata_(std::move(metadata)) {}

  const std::string& path() const override { return metadata_->path; }
  bool has(std::string_view key) const override { return metadata_->find(key) != nullptr; }
  std::optional<int64_t> find_integer(std::string_view key) const override { return metadata_->get_int(key); }
  std::optional<double> find_number(std::string_view key) const override { return metadata_->get_float(key); }
  std::optional<bool> find_boolean(std::string_view key) const override { return metadata_->get_bool(key); }
  std::optional<std::string> find_string(std::string_view key) const override { return metadata_->get_string(key); }
  bool is_string(std::string_view key) const override { return metadata_->get_string(key).has_value(); }
  std::vector<WeightedIds> weighted_ids(std::string_view /*key*/) const override { return {}; }
  std::vector<int64_t> integers(std::string_view key) const override {
    const GgufValue* value = metadata_->find(key);
    if (value == nullptr) return {};
    if (const auto* list = std::get_if<std::vector<int64_t>>(value)) return *list;
    return {*metadata_->get_int(key)};
  }
  std::vector<std::string> strings(std::string_view key) const override {
    const std::vector<std::string>* list = metadata_->get_strings(key);
    return list == nullptr ? std::vector<std::string>{} : *list;
  }

 private:
  std::shared_ptr<const GgufMetadata> metadata_;
};

/// nlohmann's parser recurses: nesting is bounded before it is handed anything.
void check_depth(const std::string& text, const std::string& path) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > 64) fail_input("{}: nested more than 64 deep; not a model config", path);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

}  // namespace

std::shared_ptr<const ModelConfig> ModelConfig::from_json_text(const std::string& text,
                                                               const std::string& path,
                                                               const std::string& overrides) {
  check_depth(text, path);
  check_depth(overrides, path);
  try {
    Json root = Json::parse(text);
    if (!root.is_object()) fail_input("{}: expected a JSON object", path);
    if (!overrides.empty()) root.update(Json::parse(overrides));
    return std::make_shared<JsonConfig>(std::move(root), path);
  } catch (const Json::exception& error) {
    // nlohmann's messages begin with an identifier in brackets.
    const std::string_view message = error.what();
    const size_t begin = message.find("] ");
    fail_input("{}: not valid JSON: {}",
               path,
               printable(begin == std::string_view::npos ? message : message.substr(begin + 2), 200));
  }
}

std::shared_ptr<const ModelConfig> ModelConfig::from_json_file(const std::string& path, const std::string& overrides) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail_input("{}: cannot be opened; a model folder needs a config.json", path);
  if (file.tellg() > kMaxJsonBytes)
    fail_input("{}: {} bytes is no model config (at most 16 MB)", path, static_cast<int64_t>(file.tellg()));
  file.seekg(0);
  std::ostringstream text;
  text << file.rdbuf();
  return from_json_text(text.str(), path, overrides);
}

std::shared_ptr<const ModelConfig> ModelConfig::from_gguf(std::shared_ptr<const GgufMetadata> metadata) {
  return std::make_shared<GgufConfig>(std::move(metadata));
}

int64_t ModelConfig::size(std::string_view key, int64_t maximum) const {
  std::optional<int64_t> value = find_integer(key);
  if (!value) fail_input("{}: '{}' is missing", path(), key);
  if (*value < 1 || *value > maximum) fail_input("{}: '{}' is {}, expected 1 to {}", path(), key, *value, maximum);
  return *value;
}

int64_t ModelConfig::size_or(std::string_view key, int64_t fallback, int64_t maximum) const {
  return has(key) ? size(key, maximum) : fallback;
}

double ModelConfig::number_or(std::string_view key, double fallback, double minimum, double maximum) const {
  double value = find_number(key).value_or(fallback);
  if (!(value >= minimum && value <= maximum)) {
    fail_input("{}: '{}' is {}, expected {} to {}", path(), key, value, minimum, maximum);
  }
  return value;
}

std::string ModelConfig::string_or(std::string_view key, std::string_view fallback) const {
  return find_string(key).value_or(std::string(fallback));
}

double as_written(float value) {
  return std::stod(fmt::format("{}", value));
}

std::string seed_activation_name(Activation activation) {
  bool is_gelu = activation == Activation::gelu_erf || activation == Activation::gelu_tanh;
  return is_gelu ? "gelu" : std::string(activation_name(activation));
}

}  // namespace weft
