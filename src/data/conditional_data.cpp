#include "data/conditional_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "data/record_lines.h"

namespace weft {
namespace {

using Json = nlohmann::json;

ConditionalText parse_fields(const RecordLine& line) {
  std::vector<std::string> fields = split_fields(line.text);
  if (fields.size() != 2 && fields.size() != 3) {
    line.fail(fmt::format("has {} fields, expected text, label or prompt, completion, label", fields.size()));
  }
  if (is_header(line, fields, {"label"})) line.fail("is a header, which Weft's files do not have; remove it");
  ConditionalText text;
  text.label = fields.back();
  if (fields.size() == 2) {
    text.document.text = fields[0];
  } else {
    text.document.prompt = fields[0];
    text.document.completion = fields[1];
  }
  return text;
}

ConditionalText parse_document(const RecordLine& line) {
  try {
    return {.document = parse_training_document(line.text)};
  } catch (const Error& error) {
    line.fail(error.what());
  }
}

ConditionalText parse_label(const RecordLine& line) {
  ConditionalText text = parse_document(line);
  Json object = parse_object(line);
  require_keys(object, {"label"}, line);
  const Json& label = object["label"];
  bool is_number = label.is_number_integer() || label.is_boolean();
  if (!label.is_string() && !is_number) line.fail("\"label\" is neither a string nor an integer");
  text.label = is_number ? label.dump() : label.get<std::string>();
  return text;
}

ConditionalText parse_values(const RecordLine& line) {
  ConditionalText text = parse_document(line);
  Json object = parse_object(line);
  require_keys(object, {"condition"}, line);
  const Json& values = object["condition"];
  bool is_list = values.is_array() && !values.empty();
  for (const Json& value : values) is_list = is_list && value.is_number();
  if (!is_list) line.fail("\"condition\" is no list of numbers");
  text.values = values.get<std::vector<float>>();
  for (float value : text.values) {
    if (!std::isfinite(value)) line.fail("\"condition\" has a number that is too large");
  }
  return text;
}

std::vector<ConditionalText> read_texts(const std::string& path, ConditionalText (*parse)(const RecordLine& line)) {
  std::vector<ConditionalText> texts;
  for_each_line(path, false, [&](const RecordLine& line) {
    ConditionalText& text = texts.emplace_back(parse(line));
    text.place = line.place();
    if (text.values.empty() && text.label.empty()) line.fail("has an empty label");
    if (text.values.size() == texts.front().values.size()) return;
    line.fail(fmt::format(
        "has a condition of {} numbers, the one before it {}", text.values.size(), texts.front().values.size()));
  });
  if (texts.empty()) fail_input("{}: holds no text with a condition", printable(path));
  return texts;
}

/// Whether the token at a place of a document is learned.
bool is_learned(const TokenDocument& document, size_t token) {
  if (document.loss_spans.empty()) return true;
  return std::any_of(document.loss_spans.begin(), document.loss_spans.end(), [&](const LossSpan& span) {
    return token >= span.begin && token < span.end;
  });
}

TrainingRow row_of(TokenDocument document, size_t max_length) {
  TrainingRow row;
  size_t length = std::min(document.ids.size(), max_length);
  row.targets.assign(length, -1);
  for (size_t t = 0; t + 1 < length; ++t) {
    if (is_learned(document, t + 1)) row.targets[t] = document.ids[t + 1];
  }
  row.ids = std::move(document.ids);
  row.ids.resize(length);
  row.spans = {{.begin = 0, .length = static_cast<int32_t>(length)}};
  return row;
}

TokenDocument encode(const ConditionalText& text, const DocumentEncoder& encoder) {
  try {
    return encoder.encode(text.document);
  } catch (const Error& error) {
    fail_input("{}: {}", text.place, error.what());
  }
}

}  // namespace

std::vector<ConditionalText> read_label_conditions(const std::string& path) {
  return read_texts(path, is_json_lines(path) ? parse_label : parse_fields);
}

std::vector<ConditionalText> read_vector_conditions(const std::string& path) {
  if (!is_json_lines(path)) fail_input("{}: conditions that are numbers stand in .jsonl files", printable(path));
  return read_texts(path, parse_values);
}

std::vector<std::string> condition_labels_of(const std::vector<ConditionalText>& texts) {
  std::set<std::string> labels;
  for (const ConditionalText& text : texts) labels.insert(text.label);
  return {labels.begin(), labels.end()};
}

std::unique_ptr<TrainingData> make_conditional_data(const std::vector<ConditionalText>& texts,
                                                    const std::vector<std::string>& labels,
                                                    const DocumentEncoder& encoder,
                                                    const MemoryRowOptions& options) {
  std::vector<TrainingRow> rows;
  for (const ConditionalText& text : texts) {
    TrainingRow row = row_of(encode(text, encoder), static_cast<size_t>(options.max_length));
    if (labels.empty()) {
      row.condition_values = text.values;
    } else {
      row.condition_labels = {index_of_label(text.label, labels, text.place)};
    }
    bool is_scored = std::any_of(row.targets.begin(), row.targets.end(), [](int32_t target) { return target >= 0; });
    if (is_scored) rows.push_back(std::move(row));
  }
  if (rows.empty()) {
    fail_input("{}: of no text is anything left to learn within {} tokens", texts.front().place, options.max_length);
  }
  return make_memory_rows(std::move(rows), options.shuffle, options.seed);
}

}  // namespace weft
