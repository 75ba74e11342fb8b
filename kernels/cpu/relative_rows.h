// Which rows of tables by distance a sequence needs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/relative_attention.h"

namespace weft {

/// Which row of the tables belongs to a query and a key; only rows that occur in the sequence are counted.
class RowIds {
 public:
  RowIds(const RelativeAttentionArgs& args, const RelativeSequence& sequence) {
    if (args.rows == nullptr) return;
    int64_t queries = sequence.query_count, keys = sequence.key_count;
    const int32_t *from = sequence.query_positions, *to = sequence.key_positions;
    auto row = [&](int64_t distance) {
      return args.rows[std::clamp(distance, -args.max_distance, args.max_distance) + args.max_distance];
    };
    if (is_consecutive(from, queries) && is_consecutive(to, keys)) {
      // A distance is a diagonal: each query reads from one place further left than the query before.
      int64_t nearest = (to != nullptr ? to[0] : 0) - (from != nullptr ? from[0] : keys - queries);
      for (int64_t d = 1 - queries; d < keys; ++d) ids_.push_back(row(nearest + d));
      first_ = queries - 1;
      step_ = -1;
    } else {
      for (int64_t i = 0; i < queries; ++i) {
        int64_t at = from != nullptr ? from[i] : keys - queries + i;
        for (int64_t j = 0; j < keys; ++j) ids_.push_back(row((to != nullptr ? to[j] : j) - at));
      }
      step_ = keys;
    }
    auto [lowest, highest] = std::minmax_element(ids_.begin(), ids_.end());
    begin_ = *lowest;
    count_ = *highest - *lowest + 1;
    for (int32_t& id : ids_) id -= static_cast<int32_t>(begin_);
  }

  /// For each key, counted from begin().
  const int32_t* of_query(int64_t query) const { return ids_.data() + first_ + query * step_; }
  int64_t begin() const { return begin_; }
  int64_t count() const { return count_; }

 private:
  static bool is_consecutive(const int32_t* positions, int64_t count) {
    for (int64_t i = 1; positions != nullptr && i < count; ++i) {
      if (positions[i] != positions[0] + i) return false;
    }
    return true;
  }

  std::vector<int32_t> ids_;
  int64_t first_ = 0, step_ = 0, begin_ = 0, count_ = 0;
};

}  // namespace weft
