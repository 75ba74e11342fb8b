#include "launcher/tag_lines.h"

#include <nlohmann/json.hpp>

#include "data/entity_tags.h"
#include "data/text_places.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

Json entity_json(const std::string& text, const TokenisedWords& tokens, const TaggedEntity& entity) {
  TokenSpan place{tokens.places[static_cast<size_t>(entity.first)].begin,
                  tokens.places[static_cast<size_t>(entity.last)].end};
  place = without_outer_spaces(text, place);
  TokenSpan characters = to_characters(text, {place})[0];
  return {{"start", characters.begin},
          {"end", characters.end},
          {"label", entity.label},
          {"text", text.substr(place.begin, place.end - place.begin)}};
}

}  // namespace

std::vector<int32_t> first_tokens_of_words(const TokenisedWords& tokens) {
  std::vector<int32_t> first_tokens;
  for (size_t t = 0; t < tokens.ids.size(); ++t) {
    if (tokens.unit[t] < 0 || (t > 0 && tokens.unit[t] == tokens.unit[t - 1])) continue;
    first_tokens.push_back(static_cast<int32_t>(t));
  }
  return first_tokens;
}

Json tags_json(const std::string& text,
               const TokenisedWords& tokens,
               std::span<const int32_t> tags,
               const TaskHead& head) {
  std::vector<int32_t> first_tokens = first_tokens_of_words(tokens);
  // The special token behind the last word.
  first_tokens.push_back(static_cast<int32_t>(tokens.ids.size()) - 1);
  auto tokens_of = [&](int32_t first, int32_t last) {
    return TaggedEntity{.label = {},
                        .first = first_tokens[static_cast<size_t>(first)],
                        .last = first_tokens[static_cast<size_t>(last) + 1] - 1};
  };
  Json result = Json::object();
  if (marks_entities(head.labels)) {
    result["entities"] = Json::array();
    for (const TaggedEntity& entity : entities_of(tags, head.labels)) {
      TaggedEntity in_tokens = tokens_of(entity.first, entity.last);
      in_tokens.label = entity.label;
      result["entities"].push_back(entity_json(text, tokens, in_tokens));
    }
    return result;
  }
  result["tokens"] = result["tags"] = Json::array();
  for (size_t w = 0; w < tags.size(); ++w) {
    auto word = static_cast<int32_t>(w);
    result["tokens"].push_back(entity_json(text, tokens, tokens_of(word, word))["text"]);
    result["tags"].push_back(head.labels[static_cast<size_t>(tags[w])]);
  }
  return result;
}

Json marks_json(const std::string& text,
                const TokenisedWords& tokens,
                const std::vector<PredictedMark>& marks,
                const TaskHead& head) {
  Json result = {{"entities", Json::array()}};
  for (const PredictedMark& one : marks) {
    bool is_text =
        tokens.unit[static_cast<size_t>(one.mark.first)] >= 0 && tokens.unit[static_cast<size_t>(one.mark.last)] >= 0;
    if (!is_text) continue;
    Json entity = entity_json(
        text,
        tokens,
        {.label = head.labels[static_cast<size_t>(one.mark.label)], .first = one.mark.first, .last = one.mark.last});
    entity["score"] = one.score;
    result["entities"].push_back(std::move(entity));
  }
  return result;
}

Json relations_json(const std::string& text,
                    const TokenisedWords& tokens,
                    std::span<const RowRelation> relations,
                    const TaskHead& head) {
  auto entity_at = [&](int32_t first, int32_t last) {
    Json entity = entity_json(text, tokens, {.label = {}, .first = first, .last = last});
    entity.erase("label");
    return entity;
  };
  Json list = Json::array();
  for (const RowRelation& one : relations) {
    list.push_back({{"subject", entity_at(one.subject_first, one.subject_last)},
                    {"predicate", head.labels[static_cast<size_t>(one.label)]},
                    {"object", entity_at(one.object_first, one.object_last)}});
  }
  return list;
}

}  // namespace weft
