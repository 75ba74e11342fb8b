#include "models/initial_state.h"

#include <nlohmann/json.hpp>

#include "models/model_config.h"

namespace weft {
namespace {

constexpr const char* kStateKey = "initial_state";
constexpr const char* kShiftsKey = "initial_shifts";

}  // namespace

InitialState read_initial_state(const ModelConfig& config) {
  bool has_shifts = config.boolean_or(kShiftsKey, false);
  if (!config.boolean_or(kStateKey, false)) return InitialState::zeros;
  return has_shifts ? InitialState::learned_with_shifts : InitialState::learned;
}

std::string initial_state_overrides(InitialState state) {
  if (state == InitialState::zeros) return "";
  nlohmann::ordered_json overrides = {{kStateKey, true}};
  if (state == InitialState::learned_with_shifts) overrides[kShiftsKey] = true;
  return overrides.dump();
}

}  // namespace weft
