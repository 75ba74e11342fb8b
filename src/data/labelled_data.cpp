#include "data/labelled_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "data/permutation.h"
#include "data/token_file_format.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

[[noreturn]] void bad_line(const std::string& path, int64_t line, std::string_view what) {
  fail_input("{}:{}: {}", printable(path), line, what);
}

LabelledText parse_tsv(const std::string& path, int64_t number, const std::string& line) {
  std::vector<std::string> fields;
  size_t begin = 0;
  for (size_t tab = line.find('\t'); tab != std::string::npos; tab = line.find('\t', begin)) {
    fields.push_back(line.substr(begin, tab - begin));
    begin = tab + 1;
  }
  fields.push_back(line.substr(begin));
  if (fields.size() != 2 && fields.size() != 3) {
    bad_line(path, number, fmt::format("has {} fields, expected text, label or text, text, label", fields.size()));
  }
  return {.first = fields[0], .second = fields.size() == 3 ? fields[1] : "", .label = fields.back()};
}

LabelledText parse_json(const std::string& path, int64_t number, const std::string& line) {
  Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) bad_line(path, number, "is no JSON object");
  auto text = [&](const char* key) -> std::string {
    auto found = object.find(key);
    if (found == object.end()) return {};
    if (!found->is_string()) bad_line(path, number, fmt::format("\"{}\" is no string", key));
    return found->get<std::string>();
  };
  LabelledText result{
      .first = object.contains("text") ? text("text") : text("first"), .second = text("second"), .label = {}};
  auto label = object.find("label");
  if (label == object.end()) bad_line(path, number, "has no \"label\"");
  if (label->is_string()) {
    result.label = label->get<std::string>();
  } else if (label->is_number_integer() || label->is_boolean()) {
    result.label = label->dump();
  } else {
    bad_line(path, number, "\"label\" is neither a string nor an integer");
  }
  return result;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

class LabelledData final : public TrainingData {
 public:
  LabelledData(std::vector<TrainingRow> rows, bool shuffle, uint64_t seed)
      : rows_(std::move(rows)), shuffle_(shuffle), seed_(seed) {
    for (const TrainingRow& row : rows_) {
      num_tokens_ += static_cast<int64_t>(row.ids.size());
      largest_id_ = std::max(largest_id_, *std::max_element(row.ids.begin(), row.ids.end()));
      std::string_view ids(reinterpret_cast<const char*>(row.ids.data()), row.ids.size() * sizeof(int32_t));
      fingerprint_ = checksum_bytes(ids, fingerprint_ + static_cast<uint64_t>(row.labels[0]));
    }
  }

  TrainingRow row(int64_t index) const override {
    auto size = static_cast<int64_t>(rows_.size());
    auto within = static_cast<uint64_t>(index % size);
    if (shuffle_) {
      PermutationKey key{.seed = seed_, .epoch = static_cast<uint32_t>(index / size), .source = 0, .purpose = 2};
      within = Permutation(key, rows_.size())(within);
    }
    return rows_[within];
  }
  int64_t rows_per_epoch() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t num_tokens() const override { return num_tokens_; }
  int64_t num_documents() const override { return static_cast<int64_t>(rows_.size()); }
  int32_t vocab_size() const override { return largest_id_ + 1; }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  std::vector<TrainingRow> rows_;
  bool shuffle_;
  uint64_t seed_;
  int64_t num_tokens_ = 0;
  int32_t largest_id_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace

std::vector<LabelledText> read_labelled_texts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_input("{}: cannot be opened", printable(path));
  bool is_json = path.ends_with(".jsonl") || path.ends_with(".json");
  std::vector<LabelledText> texts;
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    texts.push_back(is_json ? parse_json(path, number, line) : parse_tsv(path, number, line));
    if (texts.back().first.empty()) bad_line(path, number, "has an empty text");
    if (texts.back().label.empty()) bad_line(path, number, "has an empty label");
  }
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
                                                 int64_t max_length,
                                                 bool shuffle,
                                                 uint64_t seed) {
  std::vector<TrainingRow> rows;
  for (const LabelledText& text : texts) {
    auto label = std::find(labels.begin(), labels.end(), text.label);
    if (label == labels.end()) {
      fail_input(
          "label {} does not occur in the training data; known are {} labels", printable(text.label), labels.size());
    }
    std::optional<std::string_view> second;
    if (!text.second.empty()) second = text.second;
    PairEncoding encoding = tokenizer.encode_pair(text.first, second, {.max_length = static_cast<size_t>(max_length)});
    TrainingRow& row = rows.emplace_back();
    row.ids = std::move(encoding.ids);
    row.segments = std::move(encoding.segment_ids);
    row.targets.assign(row.ids.size(), -1);
    row.spans = {{.begin = 0, .length = static_cast<int32_t>(row.ids.size())}};
    row.labels = {static_cast<int32_t>(label - labels.begin())};
  }
  return std::make_unique<LabelledData>(std::move(rows), shuffle, seed);
}

}  // namespace weft
