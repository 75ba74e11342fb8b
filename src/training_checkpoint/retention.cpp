#include "training_checkpoint/retention.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "training_checkpoint/train_state.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kPartial = ".partial";

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  auto [after, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || after != end || step < 0) return std::nullopt;
  return step;
}

void delete_folder(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) log::warning("{}: cannot be deleted: {}", path, error.message());
}

/// Not a number where it was not measured.
double held_out_value(const std::string& path, const std::string& metric) {
  try {
    const std::map<std::string, double> held_out = read_train_state(path).held_out;
    auto found = held_out.find(metric);
    if (found != held_out.end()) return found->second;
  } catch (const Error& error) {
    log::debug("{}", error.what());
  }
  return std::numeric_limits<double>::quiet_NaN();
}

std::string best_of(const std::vector<StoredSave>& saves, const MetricKind& metric) {
  std::string best;
  double best_value = std::numeric_limits<double>::quiet_NaN();
  for (const StoredSave& save : saves) {
    double value = held_out_value(save.path, metric.name);
    if (!metric.is_better(value, best_value)) continue;
    best_value = value;
    best = save.path;
  }
  return best;
}

}  // namespace

std::vector<StoredSave> list_checkpoints(const std::string& directory) {
  std::vector<StoredSave> saves;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    std::optional<int64_t> step = step_of(entry.path().filename().string());
    if (step) saves.push_back({*step, entry.path().string()});
  }
  std::sort(saves.begin(), saves.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
  return saves;
}

void delete_partial(const std::string& directory) {
  std::vector<std::string> partial;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(kPartial) && step_of(name.substr(0, name.size() - kPartial.size()))) {
      partial.push_back(entry.path().string());
    }
  }
  for (const std::string& path : partial) delete_folder(path);
}

void delete_old(const std::string& directory,
                const RetentionRule& rule,
                int64_t step,
                const std::set<std::string>& damaged) {
  std::vector<StoredSave> saves = list_checkpoints(directory);
  std::erase_if(saves, [&](const StoredSave& save) { return save.step > step; });
  for (const StoredSave& save : saves) {
    if (damaged.count(save.path) > 0) delete_folder(save.path);
  }
  std::erase_if(saves, [&](const StoredSave& save) { return damaged.count(save.path) > 0; });
  std::string best = rule.keep_best ? best_of(saves, rule.best_metric) : "";
  for (size_t i = static_cast<size_t>(std::max<int64_t>(1, rule.keep_last)); i < saves.size(); ++i) {
    if (saves[i].path != best) delete_folder(saves[i].path);
  }
}

}  // namespace weft
