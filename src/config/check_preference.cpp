#include "config/field_checks.h"
#include "config/run.pb.h"

namespace weft {

void check_preference(const RunConfig& config) {
  FieldChecks check(config);
  const config::TaskConfig& task = config.message().task();
  using Task = config::TaskConfig;
  // A printed config has every default.
  const config::TaskConfig& defaults = config::TaskConfig::default_instance();
  const std::pair<const char*, bool> changed[] = {
      {"task.preference_loss", task.preference_loss() != defaults.preference_loss()},
      {"task.beta", task.beta() != defaults.beta()},
      {"task.label_smoothing", task.label_smoothing() != defaults.label_smoothing()},
      {"task.sft_weight", task.sft_weight() != defaults.sft_weight()}};
  for (const auto& [field, is_changed] : changed) {
    check.require(!is_changed || task.kind() == Task::PREFERENCE,
                  field,
                  "is given, but task.kind is {}; only PREFERENCE has it",
                  Task::Kind_Name(task.kind()));
  }
  check.positive("task.beta", task.beta());
  check.at_least<double>("task.sft_weight", task.sft_weight(), 0);
  check.require(task.label_smoothing() >= 0 && task.label_smoothing() < 0.5,
                "task.label_smoothing",
                "is {}; must be at least 0 and below 0.5",
                task.label_smoothing());
  check.require(task.label_smoothing() == 0 || task.preference_loss() == Task::SIGMOID,
                "task.label_smoothing",
                "is {}, but task.preference_loss is {}; only SIGMOID has it",
                task.label_smoothing(),
                Task::PreferenceLoss_Name(task.preference_loss()));
}

}  // namespace weft
