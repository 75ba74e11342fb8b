#include "models/weight_map.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace weft {
namespace {

/// "2i+1", "i", "2L", "4i+3" → value.
int64_t evaluate(std::string_view expression, int64_t layer, int64_t num_layers) {
  int64_t factor = 1;
  size_t position = 0;
  if (expression[0] >= '0' && expression[0] <= '9') {
    position = static_cast<size_t>(
        std::from_chars(expression.data(), expression.data() + expression.size(), factor).ptr - expression.data());
  }
  WEFT_ASSERT(position < expression.size() && (expression[position] == 'i' || expression[position] == 'L'),
              "weight map: {}",
              expression);
  int64_t value = factor * (expression[position] == 'i' ? layer : num_layers);
  ++position;
  if (position < expression.size()) {
    int64_t constant = 0;
    std::from_chars(expression.data() + position + 1, expression.data() + expression.size(), constant);
    value += constant;
  }
  return value;
}

std::string fill_in(std::string_view pattern, int64_t layer, int64_t num_layers) {
  std::string result;
  while (!pattern.empty()) {
    size_t open = pattern.find('{');
    result += pattern.substr(0, open);
    if (open == std::string_view::npos) break;
    size_t close = pattern.find('}', open);
    std::string_view inside = pattern.substr(open + 1, close - open - 1);
    if (inside[0] == '#') {
      int64_t number = evaluate(inside.substr(1), layer, num_layers);
      if (number != 0) result += "_" + std::to_string(number);
    } else {
      result += std::to_string(evaluate(inside, layer, num_layers));
    }
    pattern.remove_prefix(close + 1);
  }
  return result;
}

/// The layer number if `name` is `pattern` with {i} filled in (0 for a pattern without), else −1.
int64_t match_layer(std::string_view pattern, std::string_view name) {
  size_t open = pattern.find("{i}");
  if (open == std::string_view::npos) return pattern == name ? 0 : -1;
  std::string_view tail = pattern.substr(open + 3);
  if (name.size() <= open + tail.size() || name.substr(0, open) != pattern.substr(0, open)) return -1;
  if (name.substr(name.size() - tail.size()) != tail) return -1;
  std::string_view digits = name.substr(open, name.size() - open - tail.size());
  int64_t layer = -1;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  return error == std::errc() && end == digits.data() + digits.size() ? layer : -1;
}

bool matches_wildcard(std::string_view pattern, std::string_view name) {
  size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (name.substr(0, star) != pattern.substr(0, star)) return false;
  std::string_view rest = pattern.substr(star + 1);
  for (size_t begin = star; begin <= name.size(); ++begin) {
    if (matches_wildcard(rest, name.substr(begin))) return true;
  }
  return false;
}

}  // namespace

WeightSource find_source(const WeightMap& map, const Parameter& parameter, int64_t num_layers) {
  for (const WeightRow& row : map.rows) {
    int64_t layer = match_layer(row.ours, parameter.name);
    if (layer >= 0) return {fill_in(row.theirs, layer, num_layers), row.transform, row.part, row.selection};
  }
  fail_input("this checkpoint format has no place for {}", parameter.name);
}

void rename_parameters(WeightMap& map, const WeightMap& names) {
  for (WeightRow& row : map.rows) {
    auto named = std::find_if(
        names.rows.begin(), names.rows.end(), [&](const WeightRow& other) { return other.ours == row.ours; });
    if (named != names.rows.end()) row.ours = named->theirs;
  }
}

std::string renamed(const WeightMap& names, const Parameter& parameter, int64_t num_layers) {
  for (const WeightRow& row : names.rows) {
    int64_t layer = match_layer(row.ours, parameter.name);
    if (layer >= 0) return fill_in(row.theirs, layer, num_layers);
  }
  return parameter.name;
}

std::optional<float> implied_value(const WeightMap& map, const Parameter& parameter) {
  for (const ImpliedWeight& implied : map.implied) {
    if (match_layer(implied.ours, parameter.name) >= 0) return implied.value;
  }
  return std::nullopt;
}

bool is_ignored(const WeightMap& map, std::string_view name) {
  return std::any_of(map.ignored.begin(), map.ignored.end(), [&](const std::string& pattern) {
    return matches_wildcard(pattern, name);
  });
}

}  // namespace weft
