// Files of records, a line each: JSON objects (.jsonl, .json) or fields with tabs between (anything else).
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

/// A line of a file, without its end.
struct RecordLine {
  const std::string& path;
  int64_t number = 0;  // from 1
  const std::string& text;

  /// "path:number".
  std::string place() const;
  /// Throws Error(bad_input): "path:number: what".
  [[noreturn]] void fail(std::string_view what) const;
};

bool is_json_lines(const std::string& path);

/// Calls body for each line; empty ones only where asked for. Throws Error(bad_input) when the file can't be read.
void for_each_line(const std::string& path, bool with_empty_lines, const std::function<void(const RecordLine&)>& body);

/// Between the tabs.
std::vector<std::string> split_fields(std::string_view line);

/// Whether it is the first line and its last field one of the names, in any case.
bool is_header(const RecordLine& line, const std::vector<std::string>& fields, const std::vector<std::string>& names);

/// Throws Error(bad_input) for a key that is absent.
void require_keys(const nlohmann::json& object, const std::vector<const char*>& keys, const RecordLine& line);

/// Throws Error(bad_input) unless the line is an object.
nlohmann::json parse_object(const RecordLine& line);

/// A string of an object; empty where the key is absent. Throws Error(bad_input) for other types.
std::string text_of(const nlohmann::json& object, const char* key, const RecordLine& line);

/// A list of strings, likewise.
std::vector<std::string> texts_of(const nlohmann::json& object, const char* key, const RecordLine& line);

/// A label's index in `labels`. Throws Error(bad_input), naming the place and what is known, where it is none of them.
int32_t index_of_label(const std::string& label, const std::vector<std::string>& labels, const std::string& place);

}  // namespace weft
