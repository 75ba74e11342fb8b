// The few forms that nearly all checks of a config have.
#pragma once

#include <fmt/format.h>

#include <string>

#include "config/run_config.h"
#include "core/error.h"

namespace weft {

class FieldChecks {
 public:
  explicit FieldChecks(const RunConfig& config) : config_(config) {}

  /// Throws "place: FIELD …" unless `is_right`.
  template <typename... Args>
  void require(bool is_right, const std::string& field, fmt::format_string<Args...> problem, Args&&... args) const {
    if (is_right) return;
    fail_input("{}: {} {}", config_.location(field), field, fmt::format(problem, std::forward<Args>(args)...));
  }

  template <typename T>
  void at_least(const std::string& field, T value, T smallest) const {
    require(value >= smallest, field, "is {}; must be at least {}", value, smallest);
  }
  void positive(const std::string& field, double value) const {
    require(value > 0, field, "is {}; must be above 0", value);
  }
  /// In [0, 1).
  void below_one(const std::string& field, double value) const {
    require(value >= 0 && value < 1, field, "is {}; must be at least 0 and below 1", value);
  }
  void given(const std::string& field, const std::string& value) const {
    require(!value.empty(), field, "is required; see `weft config --explain {}`", field);
  }

 private:
  const RunConfig& config_;
};

/// train.schedule, train.optimizer, train.freeze and train.adversarial.
void check_optimizer(const RunConfig& config);
/// What task.kind PREFERENCE alone has.
void check_preference(const RunConfig& config);

}  // namespace weft
