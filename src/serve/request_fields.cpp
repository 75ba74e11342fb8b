#include "serve/request_fields.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace weft {

RequestFields::RequestFields(const std::string& body) : object_(Json::parse(body, nullptr, false)) {
  if (object_.is_discarded()) fail_input("the request's body is no JSON");
  if (!object_.is_object()) fail_input("the request's body is no JSON object");
}

const RequestFields::Json* RequestFields::find(const std::string& name) {
  known_.insert(name);
  auto place = object_.find(name);
  return place == object_.end() || place->is_null() ? nullptr : &*place;
}

const RequestFields::Json& RequestFields::require(const std::string& name) {
  const Json* value = find(name);
  if (value == nullptr) fail_input("'{}' is missing", name);
  return *value;
}

double RequestFields::number(const std::string& name, double otherwise, double least, double most) {
  const Json* value = find(name);
  if (value == nullptr) return otherwise;
  bool is_usable = value->is_number() && value->get<double>() >= least && value->get<double>() <= most;
  if (!is_usable) fail_input("'{}' must be a number from {} to {}", name, least, most);
  return value->get<double>();
}

int64_t RequestFields::integer(const std::string& name, int64_t otherwise, int64_t least, int64_t most) {
  const Json* value = find(name);
  if (value == nullptr) return otherwise;
  bool is_usable = value->is_number_integer() && value->get<int64_t>() >= least && value->get<int64_t>() <= most;
  if (!is_usable) fail_input("'{}' must be an integer from {} to {}", name, least, most);
  return value->get<int64_t>();
}

bool RequestFields::boolean(const std::string& name, bool otherwise) {
  const Json* value = find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) fail_input("'{}' must be true or false", name);
  return value->get<bool>();
}

void RequestFields::refuse(const std::string& name, std::initializer_list<Json> neutral) {
  const Json* value = find(name);
  if (value == nullptr || std::ranges::find(neutral, *value) != neutral.end()) return;
  fail_input("'{}' is not supported by this server", name);
}

void RequestFields::refuse_unknown() const {
  for (const auto& [name, value] : object_.items()) {
    if (!known_.contains(name)) fail_input("unknown field '{}'", printable(name));
  }
}

std::vector<int32_t> read_ids(const nlohmann::json& list, const char* field) {
  auto is_id = [](const nlohmann::json& id) {
    return id.is_number_integer() && std::in_range<int32_t>(id.get<int64_t>());
  };
  bool is_list = list.is_array() && std::ranges::all_of(list, is_id);
  if (!is_list) fail_input("'{}' must be text or a list of token ids", field);
  return list.get<std::vector<int32_t>>();
}

}  // namespace weft
