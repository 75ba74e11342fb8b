// Typed access to the members of a JSON object from outside. For .cpp files only.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"

namespace weft {

/// Absent and null members count as not there. A member of another type than asked for throws Error(bad_input).
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) fail_input("{}: expected a JSON object, found {}", where_, object_.type_name());
  }

  const std::string& where() const { return where_; }

  const nlohmann::json* find(std::string_view key) const {
    const auto member = object_.find(std::string(key));
    return member == object_.end() || member->is_null() ? nullptr : &*member;
  }
  const nlohmann::json& require(std::string_view key) const {
    const nlohmann::json* member = find(key);
    if (member == nullptr) fail_input("{}: '{}' is missing", where_, key);
    return *member;
  }
  JsonFields object(std::string_view key) const { return {require(key), fmt::format("{}: {}", where_, key)}; }
  const nlohmann::json& array(std::string_view key) const {
    const nlohmann::json& member = require(key);
    if (!member.is_array()) fail_type(key, "an array", member);
    return member;
  }

  std::string string(std::string_view key) const { return text_of(key, require(key)); }
  std::string string_or(std::string_view key, std::string_view fallback) const {
    const nlohmann::json* member = find(key);
    return member == nullptr ? std::string(fallback) : text_of(key, *member);
  }
  bool boolean_or(std::string_view key, bool fallback) const {
    const nlohmann::json* member = find(key);
    if (member == nullptr) return fallback;
    if (!member->is_boolean()) fail_type(key, "true or false", *member);
    return member->get<bool>();
  }
  int64_t integer(std::string_view key) const {
    const nlohmann::json& member = require(key);
    if (!member.is_number_integer()) fail_type(key, "an integer", member);
    return member.get<int64_t>();
  }

 private:
  std::string text_of(std::string_view key, const nlohmann::json& member) const {
    if (!member.is_string()) fail_type(key, "a string", member);
    return member.get<std::string>();
  }
  [[noreturn]] void fail_type(std::string_view key, std::string_view expected, const nlohmann::json& found) const {
    fail_input("{}: '{}' should be {}, found {}", where_, key, expected, found.type_name());
  }

  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace weft
