#include "data/labelled_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "data/record_lines.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Keys = std::vector<const char*>;

/// Of multilabel data; the rest between commas.
std::vector<std::string> split_labels(const std::string& field) {
  std::vector<std::string> labels;
  for (size_t begin = 0; begin < field.size();) {
    size_t end = std::min(field.find(',', begin), field.size());
    labels.push_back(field.substr(begin, end - begin));
    begin = end + 1;
  }
  return labels;
}

LabelledText parse_fields(const RecordLine& line, bool multilabel) {
  std::vector<std::string> fields = split_fields(line.text);
  if (fields.size() != 2 && fields.size() != 3) {
    line.fail(fmt::format("has {} fields, expected text, label or text, text, label", fields.size()));
  }
  if (is_header(line, fields, {"label", "labels"})) line.fail("is a header, which Weft's files do not have; remove it");
  return {.first = fields[0],
          .second = fields.size() == 3 ? fields[1] : "",
          .labels = multilabel ? split_labels(fields.back()) : std::vector{fields.back()}};
}

std::string parse_label(const nlohmann::json& label, const RecordLine& line) {
  if (label.is_string()) return label.get<std::string>();
  if (label.is_array()) line.fail("\"label\" is a list; set task.multilabel for several labels a text");
  if (!label.is_number_integer() && !label.is_boolean()) line.fail("\"label\" is neither a string nor an integer");
  return label.dump();
}

LabelledText parse_json(const RecordLine& line, bool multilabel) {
  nlohmann::json object = parse_object(line);
  require_keys(object, object.contains("first") ? Keys{"first", "second"} : Keys{"text"}, line);
  auto label = object.find("label");
  if (label == object.end()) line.fail("has no \"label\"");
  return {.first = text_of(object, object.contains("text") ? "text" : "first", line),
          .second = text_of(object, "second", line),
          .labels = multilabel ? texts_of(object, "label", line) : std::vector{parse_label(*label, line)}};
}

std::vector<LabelledText> read_texts(const std::string& path, bool multilabel) {
  bool is_json = is_json_lines(path);
  std::vector<LabelledText> texts;
  for_each_line(path, false, [&](const RecordLine& line) {
    LabelledText& text = texts.emplace_back(is_json ? parse_json(line, multilabel) : parse_fields(line, multilabel));
    text.place = line.place();
    if (text.first.empty()) line.fail("has an empty text");
    for (const std::string& label : text.labels) {
      if (label.empty()) line.fail("has an empty label");
    }
  });
  if (texts.empty()) fail_input("{}: holds no labelled text", printable(path));
  return texts;
}

TrainingRow row_of(const LabelledText& text, const Tokenizer& tokenizer, const MemoryRowOptions& options) {
  std::optional<std::string_view> second;
  if (!text.second.empty()) second = text.second;
  PairEncoding encoding =
      tokenizer.encode_pair(text.first, second, {.max_length = static_cast<size_t>(options.max_length)});
  TrainingRow row;
  row.ids = std::move(encoding.ids);
  row.segments = std::move(encoding.segment_ids);
  row.targets.assign(row.ids.size(), -1);
  row.spans = {{.begin = 0, .length = static_cast<int32_t>(row.ids.size())}};
  return row;
}

/// A text a row; `label` adds what it is labelled.
template <typename Label>
std::unique_ptr<TrainingData> make_rows(const std::vector<LabelledText>& texts,
                                        const Tokenizer& tokenizer,
                                        const MemoryRowOptions& options,
                                        const Label& label) {
  std::vector<TrainingRow> rows;
  for (const LabelledText& text : texts) label(text, rows.emplace_back(row_of(text, tokenizer, options)));
  return make_memory_rows(std::move(rows), options.shuffle, options.seed);
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::vector<LabelledText> read_labelled_texts(const std::string& path) {
  return read_texts(path, false);
}

std::vector<LabelledText> read_multilabel_texts(const std::string& path) {
  return read_texts(path, true);
}

std::vector<std::string> labels_of(const std::vector<LabelledText>& texts) {
  std::set<std::string> found;
  for (const LabelledText& text : texts) found.insert(text.labels.begin(), text.labels.end());
  std::vector<std::string> labels(found.begin(), found.end());
  if (std::all_of(labels.begin(), labels.end(), is_number)) {
    std::sort(labels.begin(), labels.end(), [](const std::string& a, const std::string& b) {
      return std::stol(a) < std::stol(b);
    });
  }
  return labels;
}

std::unique_ptr<TrainingData> make_labelled_data(const std::vector<LabelledText>& texts,
                                                 const std::vector<std::string>& labels,
                                                 const Tokenizer& tokenizer,
                                                 const MemoryRowOptions& options) {
  return make_rows(texts, tokenizer, options, [&](const LabelledText& text, TrainingRow& row) {
    row.labels = {index_of_label(text.labels.front(), labels, text.place)};
  });
}

std::unique_ptr<TrainingData> make_multilabel_data(const std::vector<LabelledText>& texts,
                                                   const std::vector<std::string>& labels,
                                                   const Tokenizer& tokenizer,
                                                   const MemoryRowOptions& options) {
  return make_rows(texts, tokenizer, options, [&](const LabelledText& text, TrainingRow& row) {
    row.labels = {0};
    for (const std::string& label : text.labels)
      row.marks.push_back({.label = index_of_label(label, labels, text.place)});
  });
}

}  // namespace weft
