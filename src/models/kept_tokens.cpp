#include "models/kept_tokens.h"

#include <algorithm>

#include "core/error.h"
#include "models/model_config.h"

namespace weft {

std::shared_ptr<const RowSelection> read_kept_tokens(const ModelSource& source, int64_t vocab_size) {
  std::vector<int64_t> kept = source.config.integers("keep_tokens");
  std::vector<ModelConfig::WeightedIds> compound = source.config.weighted_ids("compound_tokens");
  if (kept.empty() && compound.empty()) return nullptr;
  auto check = [&](int64_t id, int64_t limit, const char* key) {
    if (id < 0 || id >= limit) {
      fail_input("{}: '{}' names token {}, expected 0 to {}", source.config.path(), key, id, limit - 1);
    }
  };
  auto selection = std::make_shared<RowSelection>();
  selection->source_rows = vocab_size;
  if (kept.empty()) {
    for (int64_t id = 0; id < vocab_size; ++id) kept.push_back(id);
  }
  for (int64_t id : kept) {
    check(id, vocab_size, "keep_tokens");
    selection->rows.push_back({.ids = {id}, .weights = {}});
  }
  for (const ModelConfig::WeightedIds& one : compound) {
    RowSelection::Row row{.ids = {}, .weights = one.weights};
    for (int64_t id : one.ids) {
      check(id, static_cast<int64_t>(kept.size()), "compound_tokens");
      row.ids.push_back(kept[static_cast<size_t>(id)]);
    }
    selection->rows.push_back(std::move(row));
  }
  return selection;
}

void cut_vocabulary(WeightMap& map,
                    ModelFormat format,
                    std::initializer_list<std::string> names,
                    const std::shared_ptr<const RowSelection>& selection) {
  if (selection == nullptr || format == ModelFormat::keras_hdf5) return;
  for (WeightRow& row : map.rows) {
    if (std::find(names.begin(), names.end(), row.ours) != names.end()) row.selection = selection;
  }
}

}  // namespace weft
