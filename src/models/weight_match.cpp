#include "models/weight_match.h"

#include <fmt/format.h>

#include <set>

#include "checkpoint/reader.h"
#include "models/weight_layout.h"

namespace weft {

WeightMatch match_weights(const OpenedModel& opened, const LanguageModel& model) {
  const WeightMap& map = opened.weight_map();
  std::set<std::string> matched, missing, mismatched;
  for (const Parameter& parameter : model.parameters().all()) {
    WeightSource source = find_source(map, parameter, model.info().num_layers);
    const TensorInfo* info = opened.reader->find(source.theirs);
    if (info == nullptr) {
      if (!parameter.is_task_head) missing.insert(source.theirs);
      continue;
    }
    matched.insert(source.theirs);
    Shape expected = format_shape(source, parameter);
    if (info->shape == expected) continue;
    mismatched.insert(
        fmt::format("{} is {}, the config says {}", source.theirs, to_string(info->shape), to_string(expected)));
  }
  WeightMatch match{.num_matched = static_cast<int64_t>(matched.size()),
                    .missing = {missing.begin(), missing.end()},
                    .mismatched = {mismatched.begin(), mismatched.end()},
                    .unused = {},
                    .ignored = {}};
  for (const std::string& name : opened.reader->names()) {
    if (matched.contains(name)) continue;
    (is_ignored(map, name) ? match.ignored : match.unused).push_back(name);
  }
  return match;
}

}  // namespace weft
