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

LabelledText parse_fields(const RecordLine& line) {
  std::vector<std::string> fields = split_fields(line.text);
  if (fields.size() != 2 && fields.size() != 3) {
    line.fail(fmt::format("has {} fields, expected text, label or text, text, label", fields.size()));
  }
  if (is_header(line, fields, {"label", "labels"})) line.fail("is a header, which Weft's files do not have; remove it");
  return {.first = fields[0], .second = fields.size() == 3 ? fields[1] : "", .label = fields.back()};
}

LabelledText parse_json(const RecordLine& line) {
  nlohmann::json object = parse_object(line);
  require_keys(object, object.contains("first") ? Keys{"first", "second"} : Keys{"text"}, line);
  LabelledText result{.first = text_of(object, object.contains("text") ? "text" : "first", line),
                      .second = text_of(object, "second", line),
                      .label = {}};
  auto label = object.find("label");
  if (label == object.end()) line.fail("has no \"label\"");
  if (label->is_string()) {
    result.label = label->get<std::string>();
  } else if (label->is_number_integer() || label->is_boolean()) {
    result.label = label->dump();
  } else {
    line.fail("\"label\" is neither a string nor an integer");
  }
  return result;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::vector<LabelledText> read_labelled_texts(const std::string& path) {
  bool is_json = is_json_lines(path);
  std::vector<LabelledText> texts;
  for_each_line(path, false, [&](const RecordLine& line) {
    texts.push_back(is_json ? parse_json(line) : parse_fields(line));
    texts.back().place = line.place();
    if (texts.back().first.empty()) line.fail("has an empty text");
    if (texts.back().label.empty()) line.fail("has an empty label");
  });
  if (texts.empty()) fail_input("{}: holds no labelled text", printable(path));
  return texts;
}

std::vector<std::string> labels_of(const std::vector<LabelledText>& texts) {
  std::set<std::string> found;
  for (const LabelledText& text : texts) found.insert(text.label);
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
  std::vector<TrainingRow> rows;
  for (const LabelledText& text : texts) {
    std::optional<std::string_view> second;
    if (!text.second.empty()) second = text.second;
    PairEncoding encoding =
        tokenizer.encode_pair(text.first, second, {.max_length = static_cast<size_t>(options.max_length)});
    TrainingRow& row = rows.emplace_back();
    row.ids = std::move(encoding.ids);
    row.segments = std::move(encoding.segment_ids);
    row.targets.assign(row.ids.size(), -1);
    row.spans = {{.begin = 0, .length = static_cast<int32_t>(row.ids.size())}};
    row.labels = {index_of_label(text.label, labels, text.place)};
  }
  return make_memory_rows(std::move(rows), options.shuffle, options.seed);
}

}  // namespace weft
