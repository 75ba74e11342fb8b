// The fields of a request's JSON body, read with checks.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace weft {

/// Remembers which fields were asked for, so that the rest can be refused. All methods throw Error(bad_input) naming
/// the field that cannot be used.
class RequestFields {
 public:
  using Json = nlohmann::json;

  explicit RequestFields(const std::string& body);

  /// Null where the field is absent or null.
  const Json* find(const std::string& name);
  /// The same, but it has to be there.
  const Json& require(const std::string& name);

  double number(const std::string& name, double otherwise, double least, double most);
  int64_t integer(const std::string& name, int64_t otherwise, int64_t least, int64_t most);
  bool boolean(const std::string& name, bool otherwise);

  /// Fields that say nothing about the answer.
  void pass_over(std::initializer_list<const char*> names) { known_.insert(names.begin(), names.end()); }
  /// Fields that ask for what there is not, unless they hold a value that asks for nothing.
  void refuse(const std::string& name, std::initializer_list<Json> neutral);
  void refuse_unknown() const;

 private:
  Json object_;
  std::set<std::string> known_;
};

/// A list of integers; `field` is for the message.
std::vector<int32_t> read_ids(const nlohmann::json& list, const char* field);

}  // namespace weft
