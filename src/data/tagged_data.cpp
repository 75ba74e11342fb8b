#include "data/tagged_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "data/entity_tags.h"
#include "data/record_lines.h"
#include "data/text_places.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

TaggedText parse_json(const RecordLine& line) {
  Json object = parse_object(line);
  TaggedText result;
  if (object.contains("tokens") && !object.contains("tags")) {
    line.fail(object.contains("ner_tags") ? "has no \"tags\"; call \"ner_tags\" so, and give the tags' names"
                                          : "has no \"tags\"");
  }
  if (object.contains("text") && !object.contains("entities")) {
    line.fail("has no \"entities\"; a text without any has an empty list");
  }
  result.words = texts_of(object, "tokens", line);
  result.tags = texts_of(object, "tags", line);
  result.text = text_of(object, "text", line);
  if (result.words.size() != result.tags.size()) {
    line.fail(fmt::format("has {} tokens and {} tags", result.words.size(), result.tags.size()));
  }
  if (result.words.empty() == result.text.empty()) line.fail("expected \"tokens\" with \"tags\", or \"text\"");
  auto entities = object.find("entities");
  if (entities == object.end()) return result;
  if (!entities->is_array()) line.fail("\"entities\" is no list");
  std::vector<size_t> places = byte_places(result.text);
  for (const Json& entity : *entities) {
    auto number = [&](const char* key) -> size_t {
      auto found = entity.is_object() ? entity.find(key) : entity.end();
      bool is_there = entity.is_object() && found != entity.end() && found->is_number_unsigned();
      if (!is_there || found->get<uint64_t>() >= places.size()) {
        line.fail(fmt::format("an entity's \"{}\" is no place in the text of {} characters", key, places.size() - 1));
      }
      return places[found->get<size_t>()];
    };
    TaggedText::Entity one{.place = {number("start"), number("end")}, .label = text_of(entity, "label", line)};
    if (one.place.begin >= one.place.end) line.fail("an entity ends where it starts, or before");
    if (one.label.empty()) line.fail("an entity has no label");
    result.entities.push_back(std::move(one));
  }
  return result;
}

/// The word and the last field.
void add_word(const RecordLine& line, TaggedText& text) {
  size_t first_end = line.text.find_first_of("\t ");
  size_t last_begin = line.text.find_last_of("\t ");
  if (first_end == std::string::npos || first_end == 0 || last_begin + 1 == line.text.size()) {
    line.fail("expected a word and its tag, with a tab or a space between");
  }
  text.words.push_back(line.text.substr(0, first_end));
  text.tags.push_back(line.text.substr(last_begin + 1));
}

int32_t require_special(std::optional<int32_t> id, const char* name) {
  if (!id) fail_input("the tokenizer has no {} token, which the task's texts begin and end with", name);
  return *id;
}

/// Around what was tokenised.
TokenisedWords with_specials(TokenisedWords words, const Tokenizer& tokenizer, int64_t max_length) {
  auto most = static_cast<size_t>(std::max<int64_t>(0, max_length - 2));
  words.ids.resize(std::min(words.ids.size(), most));
  words.unit.resize(words.ids.size());
  words.ids.insert(words.ids.begin(), require_special(tokenizer.cls_id(), "[CLS]"));
  words.ids.push_back(require_special(tokenizer.sep_id(), "[SEP]"));
  words.unit.insert(words.unit.begin(), -1);
  words.unit.push_back(-1);
  if (words.places.empty()) return words;
  words.places.resize(words.ids.size() - 2);
  words.places.insert(words.places.begin(), TokenSpan{});
  words.places.emplace_back();
  return words;
}

TokenisedWords tokenise(const TaggedText& text, const Tokenizer& tokenizer, int64_t max_length) {
  return text.text.empty() ? tokenise_words(text.words, tokenizer, max_length)
                           : tokenise_text(text.text, tokenizer, max_length);
}

/// First and last token, in the row, of what a text's entities cover; none for those that the row does not hold.
std::vector<TaggedEntity> entities_in_tokens(const TaggedText& text, const TokenisedWords& tokens) {
  std::vector<TaggedEntity> result;
  auto add = [&](const std::string& label, const auto& is_within) {
    TaggedEntity entity{.label = label, .first = -1, .last = -1};
    for (size_t t = 0; t < tokens.ids.size(); ++t) {
      if (tokens.unit[t] < 0 || !is_within(t)) continue;
      if (entity.first < 0) entity.first = static_cast<int32_t>(t);
      entity.last = static_cast<int32_t>(t);
    }
    if (entity.first >= 0) result.push_back(std::move(entity));
  };
  int32_t last_unit = *std::max_element(tokens.unit.begin(), tokens.unit.end());
  for (const TaggedEntity& entity : entities_of(text.tags)) {
    if (entity.last > last_unit) continue;
    add(entity.label, [&](size_t t) { return tokens.unit[t] >= entity.first && tokens.unit[t] <= entity.last; });
  }
  if (text.entities.empty()) return result;
  size_t end = 0;
  for (const TokenSpan& place : tokens.places) end = std::max(end, place.end);
  for (const TaggedText::Entity& entity : text.entities) {
    if (entity.place.begin >= end) continue;
    add(entity.label, [&](size_t t) {
      return tokens.places[t].begin < entity.place.end && tokens.places[t].end > entity.place.begin;
    });
  }
  return result;
}

/// A text a row, with what `mark(text, tokens, row)` puts on it.
template <typename Mark>
std::unique_ptr<TrainingData> make_rows(const std::vector<TaggedText>& texts,
                                        const Tokenizer& tokenizer,
                                        const MemoryRowOptions& options,
                                        const Mark& mark) {
  std::vector<TrainingRow> rows;
  for (const TaggedText& text : texts) {
    TokenisedWords tokens = tokenise(text, tokenizer, options.max_length);
    TrainingRow& row = rows.emplace_back();
    row.ids = tokens.ids;
    row.targets.assign(row.ids.size(), -1);
    row.spans = {{.begin = 0, .length = static_cast<int32_t>(row.ids.size())}};
    row.labels = {0};
    mark(text, tokens, row);
  }
  return make_memory_rows(std::move(rows), options.shuffle, options.seed);
}

}  // namespace

std::vector<TaggedText> read_tagged_texts(const std::string& path) {
  std::vector<TaggedText> texts;
  if (is_json_lines(path)) {
    for_each_line(path, false, [&](const RecordLine& line) {
      texts.push_back(parse_json(line));
      texts.back().place = line.place();
    });
  } else {
    bool is_open = false;
    for_each_line(path, true, [&](const RecordLine& line) {
      if (line.text.empty() || line.text.starts_with("-DOCSTART-")) {
        is_open = false;
        return;
      }
      if (!is_open) texts.emplace_back().place = line.place();
      is_open = true;
      add_word(line, texts.back());
    });
  }
  if (texts.empty()) fail_input("{}: holds no tagged text", printable(path));
  return texts;
}

std::vector<std::string> tags_of(const std::vector<TaggedText>& texts) {
  std::set<std::string> tags;
  for (const TaggedText& text : texts) {
    tags.insert(text.tags.begin(), text.tags.end());
    if (!text.text.empty()) tags.insert("O");
    for (const TaggedText::Entity& entity : text.entities) {
      tags.insert("B-" + entity.label);
      tags.insert("I-" + entity.label);
    }
  }
  return {tags.begin(), tags.end()};
}

std::vector<std::string> entity_labels_of(const std::vector<TaggedText>& texts) {
  std::set<std::string> labels;
  for (const TaggedText& text : texts) {
    for (const TaggedText::Entity& entity : text.entities) labels.insert(entity.label);
    for (const TaggedEntity& entity : entities_of(text.tags)) labels.insert(entity.label);
  }
  return {labels.begin(), labels.end()};
}

TokenisedWords tokenise_words(const std::vector<std::string>& words, const Tokenizer& tokenizer, int64_t max_length) {
  TokenisedWords result;
  for (size_t w = 0; w < words.size(); ++w) {
    std::vector<int32_t> ids = tokenizer.encode(words[w], false, SpecialsInText::plain_text);
    // A word of which nothing is left (a lone accent) keeps its place.
    if (ids.empty() && tokenizer.unk_id()) ids.push_back(*tokenizer.unk_id());
    result.unit.insert(result.unit.end(), ids.size(), static_cast<int32_t>(w));
    result.ids.insert(result.ids.end(), ids.begin(), ids.end());
  }
  return with_specials(std::move(result), tokenizer, max_length);
}

TokenisedWords tokenise_text(const std::string& text, const Tokenizer& tokenizer, int64_t max_length) {
  TokenisedWords result;
  result.places = tokenizer.encode_with_offsets(text, result.ids, SpecialsInText::plain_text);
  int32_t word = -1;
  for (int32_t id : result.ids) {
    bool goes_on = word >= 0 && tokenizer.id_to_token(id).starts_with("##");
    result.unit.push_back(goes_on ? word : ++word);
  }
  return with_specials(std::move(result), tokenizer, max_length);
}

std::unique_ptr<TrainingData> make_tagging_data(const std::vector<TaggedText>& texts,
                                                const std::vector<std::string>& labels,
                                                const Tokenizer& tokenizer,
                                                const MemoryRowOptions& options) {
  return make_rows(
      texts, tokenizer, options, [&](const TaggedText& text, const TokenisedWords& tokens, TrainingRow& row) {
        std::vector<std::string> tags = text.tags;
        if (!text.text.empty()) {
          tags.assign(tokens.ids.size(), "O");
          for (const TaggedEntity& entity : entities_in_tokens(text, tokens)) {
            auto unit_of = [&](int32_t token) { return static_cast<size_t>(tokens.unit[static_cast<size_t>(token)]); };
            size_t first = unit_of(entity.first);
            for (size_t u = first; u <= unit_of(entity.last); ++u) tags[u] = (u == first ? "B-" : "I-") + entity.label;
          }
        }
        for (size_t t = 1; t < tokens.ids.size(); ++t) {
          int32_t unit = tokens.unit[t];
          if (unit < 0 || unit == tokens.unit[t - 1]) continue;
          row.targets[t] = index_of_label(tags[static_cast<size_t>(unit)], labels, text.place);
        }
      });
}

std::unique_ptr<TrainingData> make_entity_data(const std::vector<TaggedText>& texts,
                                               const std::vector<std::string>& labels,
                                               const Tokenizer& tokenizer,
                                               const MemoryRowOptions& options) {
  return make_rows(
      texts, tokenizer, options, [&](const TaggedText& text, const TokenisedWords& tokens, TrainingRow& row) {
        for (const TaggedEntity& entity : entities_in_tokens(text, tokens)) {
          row.marks.push_back({.span = 0,
                               .label = index_of_label(entity.label, labels, text.place),
                               .first = entity.first,
                               .last = entity.last});
        }
      });
}

}  // namespace weft
