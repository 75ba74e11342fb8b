// Which checkpoints stay.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "report/metric_kind.h"

namespace weft {

/// A checkpoint that lies in a directory, whole or not.
struct StoredSave {
  int64_t step = 0;
  std::string path;
};

/// The checkpoints of a directory, the latest first; what is called otherwise is no checkpoint.
std::vector<StoredSave> list_checkpoints(const std::string& directory);

/// Deletes saves that did not become whole.
void delete_partial(const std::string& directory);

struct RetentionRule {
  int64_t keep_last = 2;
  bool keep_best = true;
  MetricKind best_metric;
};

/// After a save at `step`: deletes all earlier checkpoints but the latest ones and the best (the latest
/// of equals). Those known to be damaged
/// are not counted and go as well.
void delete_old(const std::string& directory,
                const RetentionRule& rule,
                int64_t step,
                const std::set<std::string>& damaged);

}  // namespace weft
