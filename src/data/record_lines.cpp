#include "data/record_lines.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <fstream>

#include "core/error.h"
#include "tokenizer/unicode.h"

namespace weft {

std::string RecordLine::place() const {
  return fmt::format("{}:{}", printable(path), number);
}

void RecordLine::fail(std::string_view what) const {
  fail_input("{}: {}", place(), what);
}

int32_t index_of_label(const std::string& label, const std::vector<std::string>& labels, const std::string& place) {
  auto found = std::find(labels.begin(), labels.end(), label);
  if (found != labels.end()) return static_cast<int32_t>(found - labels.begin());
  constexpr size_t kNamed = 20;
  std::vector<std::string> named(labels.begin(),
                                 labels.begin() + static_cast<std::ptrdiff_t>(std::min(labels.size(), kNamed)));
  for (std::string& one : named) one = printable(one);
  fail_input(
      "{}: label {} is unknown; known are the {} that the model was trained for or, of a new layer (task.new_head), "
      "those of the training data: {}{}",
      place,
      printable(label),
      labels.size(),
      fmt::join(named, ", "),
      labels.size() > kNamed ? ", …" : "");
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
    if (line.empty() && !with_empty_lines) continue;
    RecordLine record{.path = path, .number = number, .text = line};
    if (!is_valid_utf8(line)) record.fail("is no UTF-8");
    body(record);
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

bool is_header(const RecordLine& line, const std::vector<std::string>& fields, const std::vector<std::string>& names) {
  if (line.number != 1) return false;
  std::string last = fields.back();
  std::transform(last.begin(), last.end(), last.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::find(names.begin(), names.end(), last) != names.end();
}

void require_keys(const nlohmann::json& object, const std::vector<const char*>& keys, const RecordLine& line) {
  for (const char* key : keys) {
    if (!object.contains(key)) line.fail(fmt::format("has no \"{}\"", key));
  }
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
