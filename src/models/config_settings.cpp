#include "models/config_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/nearest_name.h"
#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

std::string key_of(const std::string& setting) {
  size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0) {
    fail(ExitCode::usage,
         "'{}' sets nothing in a model's config: write KEY=VALUE, for example hidden_dropout_prob=0.2",
         printable(setting));
  }
  return setting.substr(0, equals);
}

Json value_of(const std::string& setting) {
  std::string text = setting.substr(setting.find('=') + 1);
  Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(text) : value;
}

}  // namespace

std::string with_settings(const std::string& overrides, const std::vector<std::string>& settings) {
  if (settings.empty()) return overrides;
  Json all = overrides.empty() ? Json::object() : Json::parse(overrides);
  for (const std::string& setting : settings) all[key_of(setting)] = value_of(setting);
  return all.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void check_settings(const ModelConfig& config, const std::string& family, const std::vector<std::string>& settings) {
  std::vector<std::string> known = config.keys_read();
  for (const std::string& setting : settings) {
    std::string key = key_of(setting);
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    std::string nearest = nearest_name(key, known);
    if (nearest.empty()) {
      auto longer =
          std::find_if(known.begin(), known.end(), [&](const std::string& one) { return one.starts_with(key); });
      if (longer != known.end()) nearest = *longer;
    }
    fail(ExitCode::usage,
         "{}: a model of the family {} reads no key '{}' that could be set{}",
         config.path(),
         family,
         printable(key),
         nearest.empty() ? std::string() : fmt::format("; the nearest that it reads is '{}'", printable(nearest)));
  }
}

}  // namespace weft
