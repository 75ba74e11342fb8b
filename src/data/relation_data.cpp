#include "data/relation_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "core/error.h"
#include "data/record_lines.h"
#include "data/tagged_data.h"

namespace weft {
namespace {

using Json = nlohmann::json;

bool is_same_letter(char a, char b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return lower(a) == lower(b);
}

TokenSpan find_entity(const std::string& text, const std::string& entity, const RecordLine& line) {
  size_t begin = text.find(entity);
  if (begin == std::string::npos) {
    auto found = std::search(text.begin(), text.end(), entity.begin(), entity.end(), is_same_letter);
    if (found == text.end()) line.fail(fmt::format("'{}' does not occur in the text", printable(entity)));
    begin = static_cast<size_t>(found - text.begin());
  }
  return {begin, begin + entity.size()};
}

std::string entity_of(const Json& relation, const char* key, const RecordLine& line) {
  std::string entity = text_of(relation, key, line);
  if (entity.empty()) line.fail(fmt::format("a relation has no \"{}\"", key));
  return entity;
}

RelationText parse(const RecordLine& line) {
  Json object = parse_object(line);
  require_keys(object, {"text", "spo_list"}, line);
  RelationText result{.text = text_of(object, "text", line), .relations = {}, .place = line.place()};
  if (result.text.empty()) line.fail("has an empty text");
  const Json& relations = object["spo_list"];
  if (!relations.is_array()) line.fail("\"spo_list\" is no list");
  for (const Json& relation : relations) {
    if (!relation.is_object()) line.fail("\"spo_list\" holds something else than objects");
    result.relations.push_back({.subject = find_entity(result.text, entity_of(relation, "subject", line), line),
                                .predicate = entity_of(relation, "predicate", line),
                                .object = find_entity(result.text, entity_of(relation, "object", line), line)});
  }
  return result;
}

/// First and last token that a place of the text is in; none unless the row holds all of it.
std::optional<std::pair<int32_t, int32_t>> tokens_at(const TokenisedWords& tokens, const TokenSpan& place) {
  int32_t first = -1, last = -1;
  size_t end = 0;
  for (size_t t = 0; t < tokens.ids.size(); ++t) {
    if (tokens.unit[t] < 0) continue;
    end = std::max(end, tokens.places[t].end);
    if (tokens.places[t].begin >= place.end || tokens.places[t].end <= place.begin) continue;
    if (first < 0) first = static_cast<int32_t>(t);
    last = static_cast<int32_t>(t);
  }
  if (first < 0 || end < place.end) return std::nullopt;
  return std::pair{first, last};
}

}  // namespace

std::vector<RelationText> read_relation_texts(const std::string& path) {
  if (!is_json_lines(path)) fail_input("{}: texts with relations stand in .jsonl files", printable(path));
  std::vector<RelationText> texts;
  for_each_line(path, false, [&](const RecordLine& line) { texts.push_back(parse(line)); });
  if (texts.empty()) fail_input("{}: holds no text with relations", printable(path));
  return texts;
}

std::vector<std::string> predicates_of(const std::vector<RelationText>& texts) {
  std::set<std::string> predicates;
  for (const RelationText& text : texts) {
    for (const RelationText::Relation& relation : text.relations) predicates.insert(relation.predicate);
  }
  return {predicates.begin(), predicates.end()};
}

std::unique_ptr<TrainingData> make_relation_data(const std::vector<RelationText>& texts,
                                                 const std::vector<std::string>& labels,
                                                 const Tokenizer& tokenizer,
                                                 const MemoryRowOptions& options) {
  std::vector<TrainingRow> rows;
  for (const RelationText& text : texts) {
    TokenisedWords tokens = tokenise_text(text.text, tokenizer, options.max_length);
    TrainingRow& row = rows.emplace_back();
    row.targets.assign(tokens.ids.size(), -1);
    row.spans = {{.begin = 0, .length = static_cast<int32_t>(tokens.ids.size())}};
    row.labels = {0};
    for (const RelationText::Relation& relation : text.relations) {
      int32_t label = index_of_label(relation.predicate, labels, text.place);
      auto subject = tokens_at(tokens, relation.subject), object = tokens_at(tokens, relation.object);
      if (!subject || !object) continue;
      row.relations.push_back({.span = 0,
                               .label = label,
                               .subject_first = subject->first,
                               .subject_last = subject->second,
                               .object_first = object->first,
                               .object_last = object->second});
    }
    row.ids = std::move(tokens.ids);
  }
  return make_memory_rows(std::move(rows), options.shuffle, options.seed);
}

}  // namespace weft
