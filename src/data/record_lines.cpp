#include "data/record_lines.h"

#include <fmt/format.h>

#include <fstream>

#include "core/error.h"

namespace weft {

void RecordLine::fail(std::string_view what) const {
  fail_input("{}:{}: {}", printable(path), number, what);
}

bool is_json_lines(const std::string& path) {
  return path.ends_with(".jsonl") || path.ends_with(".json");
}

void for_each_line(const std::string& path, bool with_empty_lines, const std::function<void(const RecordLine&)>& body) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_input("{}: cannot be opened", printable(path));
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() || with_empty_lines) body({.path = path, .number = number, .text = line});
  }
}

std::vector<std::string> split_fields(std::string_view line) {
  std::vector<std::string> fields;
  size_t begin = 0;
  for (size_t tab = line.find('\t'); tab != std::string_view::npos; tab = line.find('\t', begin)) {
    fields.emplace_back(line.substr(begin, tab - begin));
    begin = tab + 1;
  }
  fields.emplace_back(line.substr(begin));
  return fields;
}

nlohmann::json parse_object(const RecordLine& line) {
  nlohmann::json object = nlohmann::json::parse(line.text, nullptr, false);
  if (!object.is_object()) line.fail("is no JSON object");
  return object;
}

std::string text_of(const nlohmann::json& object, const char* key, const RecordLine& line) {
  auto found = object.find(key);
  if (found == object.end()) return {};
  if (!found->is_string()) line.fail(fmt::format("\"{}\" is no string", key));
  return found->get<std::string>();
}

std::vector<std::string> texts_of(const nlohmann::json& object, const char* key, const RecordLine& line) {
  std::vector<std::string> texts;
  auto found = object.find(key);
  if (found == object.end()) return texts;
  bool is_list = found->is_array();
  for (const nlohmann::json& value : *found) {
    is_list = is_list && value.is_string();
    if (is_list) texts.push_back(value.get<std::string>());
  }
  if (!is_list) line.fail(fmt::format("\"{}\" is no list of strings", key));
  return texts;
}

}  // namespace weft
