#include "data/entity_tags.h"

#include <algorithm>
#include <set>
#include <string_view>

namespace weft {
namespace {

/// "B-PER" is {'B', "PER"}; what has no such form is {'O', ""}.
struct TagParts {
  char place = 'O';
  std::string_view label;
};

TagParts parts_of(std::string_view tag) {
  constexpr std::string_view kPlaces = "BIMES";
  if (tag.empty() || kPlaces.find(tag[0]) == std::string_view::npos) return {};
  if (tag.size() == 1) return {.place = tag[0], .label = {}};
  if (tag[1] != '-' && tag[1] != '_') return {};
  return {.place = tag[0], .label = tag.substr(2)};
}

}  // namespace

bool marks_entities(const std::vector<std::string>& labels) {
  return std::any_of(
      labels.begin(), labels.end(), [](const std::string& label) { return parts_of(label).place == 'B'; });
}

std::vector<std::string> entity_types(const std::vector<std::string>& labels) {
  std::set<std::string> types;
  for (const std::string& label : labels) {
    TagParts tag = parts_of(label);
    if (tag.place != 'O') types.emplace(tag.label);
  }
  return {types.begin(), types.end()};
}

std::vector<TaggedEntity> entities_of(const std::vector<std::string>& tags) {
  std::vector<TaggedEntity> entities;
  bool is_open = false;
  for (size_t i = 0; i < tags.size(); ++i) {
    TagParts tag = parts_of(tags[i]);
    if (tag.place == 'O') {
      is_open = false;
      continue;
    }
    auto at = static_cast<int32_t>(i);
    bool begins = tag.place == 'B' || tag.place == 'S' || !is_open || entities.back().label != tag.label;
    if (begins) entities.push_back({.label = std::string(tag.label), .first = at, .last = at});
    entities.back().last = at;
    is_open = tag.place != 'E' && tag.place != 'S';
  }
  return entities;
}

std::vector<TaggedEntity> entities_of(std::span<const int32_t> tags, const std::vector<std::string>& labels) {
  std::vector<std::string> names;
  names.reserve(tags.size());
  for (int32_t tag : tags) names.push_back(labels[static_cast<size_t>(tag)]);
  return entities_of(names);
}

}  // namespace weft
