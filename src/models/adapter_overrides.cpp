// What a model has to have for an adapter to fit it.
#include <nlohmann/json.hpp>

#include "core/paths.h"
#include "models/adapter_file.h"
#include "models/initial_state.h"
#include "models/model_config.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

TaskHead adapter_task_head(const std::string& folder) {
  std::string path = folder + "/adapter_config.json";
  if (!path_exists(path)) return {};
  auto config = ModelConfig::from_json_file(path);
  return config->has("task_head") ? read_task_head(*config) : TaskHead{};
}

std::string adapter_overrides(const std::string& folder) {
  std::string path = folder + "/adapter_config.json";
  if (!path_exists(path)) return "";
  TaskHead head = adapter_task_head(folder);
  auto config = ModelConfig::from_json_file(path);
  Json overrides = Json::object();
  if (head.kind != TaskHead::Kind::none) overrides = Json::parse(task_head_overrides(head));
  for (const std::string& more :
       {condition_overrides(read_condition(*config, nullptr)), initial_state_overrides(read_initial_state(*config))}) {
    if (!more.empty()) overrides.update(Json::parse(more));
  }
  return overrides.empty() ? "" : overrides.dump();
}

}  // namespace weft
