// What evaluations are compared by.
#pragma once

#include <cmath>
#include <string>

namespace weft {

/// A number that evaluations report, and which of its values are good.
struct MetricKind {
  std::string name;
  bool higher_is_better = true;

  /// What is not finite is no better than anything, and anything finite is better than it.
  bool is_better(double value, double than) const {
    if (!std::isfinite(value) || !std::isfinite(than)) return std::isfinite(value);
    return higher_is_better ? value > than : value < than;
  }
};

}  // namespace weft
