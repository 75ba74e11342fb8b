#include "data/similar_data.h"

#include <fmt/format.h>

#include <charconv>

#include "core/error.h"
#include "data/record_lines.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

void parse_fields(const RecordLine& line, std::vector<SimilarTexts>& texts) {
  std::vector<std::string> fields = split_fields(line.text);
  if (fields.size() != 2 && fields.size() != 3) {
    line.fail(fmt::format("has {} fields, expected text, text or text, text, score", fields.size()));
  }
  SimilarTexts& pair = texts.emplace_back(SimilarTexts{.first = fields[0], .second = fields[1], .score = {}});
  if (fields.size() == 2) return;
  float score = 0;
  const char* end = fields[2].data() + fields[2].size();
  auto [rest, error] = std::from_chars(fields[2].data(), end, score);
  if (error != std::errc() || rest != end) line.fail("the score is no number");
  pair.score = score;
}

void parse_json(const RecordLine& line, std::vector<SimilarTexts>& texts) {
  Json object = parse_object(line);
  if (object.contains("text")) {
    std::string text = text_of(object, "text", line);
    std::vector<std::string> synonyms = texts_of(object, "synonyms", line);
    if (synonyms.empty()) line.fail("has no \"synonyms\"");
    for (std::string& synonym : synonyms) texts.push_back({.first = text, .second = std::move(synonym), .score = {}});
    return;
  }
  require_keys(object, {"first", "second"}, line);
  SimilarTexts& pair = texts.emplace_back(
      SimilarTexts{.first = text_of(object, "first", line), .second = text_of(object, "second", line), .score = {}});
  auto score = object.find("score");
  if (score == object.end()) return;
  if (!score->is_number()) line.fail("\"score\" is no number");
  pair.score = score->get<float>();
}

void add_span(TrainingRow& row, const PairEncoding& encoding, bool generates) {
  auto begin = static_cast<int32_t>(row.ids.size());
  row.spans.push_back({.begin = begin, .length = static_cast<int32_t>(encoding.ids.size())});
  row.ids.insert(row.ids.end(), encoding.ids.begin(), encoding.ids.end());
  row.segments.insert(row.segments.end(), encoding.segment_ids.begin(), encoding.segment_ids.end());
  row.targets.resize(row.ids.size(), -1);
  row.labels.push_back(0);
  for (size_t t = static_cast<size_t>(begin); generates && t + 1 < row.ids.size(); ++t) {
    if (row.segments[t + 1] == 1) row.targets[t] = row.ids[t + 1];
  }
}

}  // namespace

std::vector<SimilarTexts> read_similar_texts(const std::string& path) {
  std::vector<SimilarTexts> texts;
  bool is_json = is_json_lines(path);
  for_each_line(path, false, [&](const RecordLine& line) {
    is_json ? parse_json(line, texts) : parse_fields(line, texts);
    if (texts.back().first.empty() || texts.back().second.empty()) line.fail("has an empty text");
    if (texts.back().score.has_value() != texts.front().score.has_value()) {
      line.fail("some pairs have a score and others none");
    }
  });
  if (texts.empty()) fail_input("{}: holds no pair of texts", printable(path));
  return texts;
}

std::unique_ptr<TrainingData> make_similarity_data(const std::vector<SimilarTexts>& texts,
                                                   const Tokenizer& tokenizer,
                                                   bool generates,
                                                   const MemoryRowOptions& options) {
  auto length = static_cast<size_t>(options.max_length);
  std::vector<TrainingRow> rows;
  for (const SimilarTexts& pair : texts) {
    TrainingRow& row = rows.emplace_back();
    for (auto [first, second] : {std::pair{&pair.first, &pair.second}, std::pair{&pair.second, &pair.first}}) {
      std::optional<std::string_view> target;
      if (generates) target = *second;
      add_span(row, tokenizer.encode_pair(*first, target, {.max_length = length}), generates);
    }
    if (pair.score) row.scores = {*pair.score};
  }
  return make_memory_rows(std::move(rows), options.shuffle, options.seed);
}

}  // namespace weft
