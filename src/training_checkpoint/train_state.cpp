#include "training_checkpoint/train_state.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/file.h"
#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxBytes = 1 << 20;
/// Numbers of steps, rows and tokens; sums and products with a batch's stay far from overflow.
constexpr int64_t kMaxCount = int64_t{1} << 53;

Json finite_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

/// Reads fields of an object that may hold anything.
class FieldReader {
 public:
  FieldReader(const Json& object, const std::string& path) : object_(object), path_(path) {}

  int64_t count(const char* key, int64_t maximum = kMaxCount) const {
    auto found = object_.find(key);
    // What is written is unsigned: a negative number is not.
    bool is_right = found != object_.end() && found->is_number_unsigned() &&
                    found->get<uint64_t>() <= static_cast<uint64_t>(maximum);
    if (!is_right) fail_input("{}: '{}' must be a number from 0 to {}; damaged", printable(path_), key, maximum);
    return found->get<int64_t>();
  }
  int small_count(const char* key) const { return static_cast<int>(count(key, std::numeric_limits<int>::max())); }
  /// Hexadecimal text; 0 where it is absent.
  uint64_t fingerprint(const char* key) const {
    auto found = object_.find(key);
    if (found == object_.end()) return 0;
    uint64_t value = 0;
    bool is_right = found->is_string();
    if (is_right) {
      const auto& text = found->get_ref<const std::string&>();
      auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
      is_right = error == std::errc() && end == text.data() + text.size();
    }
    if (!is_right) fail_input("{}: '{}' must be up to 16 hexadecimal digits; damaged", printable(path_), key);
    return value;
  }
  uint64_t seed(const char* key) const {
    auto found = object_.find(key);
    if (found == object_.end() || !found->is_number_unsigned()) {
      fail_input("{}: '{}' must be a number of at least 0; damaged", printable(path_), key);
    }
    return found->get<uint64_t>();
  }
  double number_or(const char* key, double fallback) const {
    auto found = object_.find(key);
    if (found == object_.end() || found->is_null()) return fallback;
    if (!found->is_number()) fail_input("{}: '{}' must be a number; damaged", printable(path_), key);
    return found->get<double>();
  }
  /// Empty where it is absent.
  std::string text(const char* key) const {
    auto found = object_.find(key);
    if (found == object_.end()) return {};
    if (!found->is_string()) fail_input("{}: '{}' must be a text; damaged", printable(path_), key);
    return found->get<std::string>();
  }
  /// Only what is finite: a metric without a value was not measured.
  std::map<std::string, double> held_out() const {
    std::map<std::string, double> values;
    auto found = object_.find("held_out");
    if (found == object_.end()) return values;
    if (!found->is_object()) fail_input("{}: 'held_out' must be an object; damaged", printable(path_));
    FieldReader reader(*found, path_);
    for (const auto& [metric, value] : found->items()) {
      if (!value.is_null()) values[metric] = reader.number_or(metric.c_str(), 0);
    }
    return values;
  }

 private:
  const Json& object_;
  const std::string& path_;
};

}  // namespace

std::string train_state_json(const TrainState& state) {
  Json held_out = Json::object();
  for (const auto& [metric, value] : state.held_out) held_out[metric] = finite_or_null(value);
  Json json = {{"step", state.step},
               {"updates", state.updates},
               {"next_row", state.next_row},
               {"tokens_seen", state.tokens_seen},
               {"held_out", held_out},
               {"best_metric", state.best_metric},
               {"best_value", finite_or_null(state.best_value)},
               {"evaluations_since_best", state.evaluations_since_best},
               {"seed", state.seed},
               {"data_fingerprint", fmt::format("{:016x}", state.data_fingerprint)},
               {"base_fingerprint", fmt::format("{:016x}", state.base_fingerprint)},
               {"optimizer", state.optimizer},
               {"data_parallel", state.data_parallel},
               {"tensor_parallel", state.tensor_parallel},
               {"zero_stage", state.zero_stage}};
  return json.dump(2) + "\n";
}

TrainState read_train_state(const std::string& folder) {
  std::string path = folder + "/train_state.json";
  File file(path);
  if (file.size() > kMaxBytes) fail_input("{}: {} bytes, at most {} expected", printable(path), file.size(), kMaxBytes);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) fail_input("{}: no JSON object; damaged", printable(path));
  FieldReader reader(json, path);
  TrainState defaults;
  return {
      .step = reader.count("step"),
      .updates = reader.count("updates"),
      .next_row = reader.count("next_row"),
      .tokens_seen = reader.count("tokens_seen"),
      .held_out = reader.held_out(),
      .best_metric = reader.text("best_metric"),
      .best_value = reader.number_or("best_value", defaults.best_value),
      .evaluations_since_best = json.contains("evaluations_since_best") ? reader.count("evaluations_since_best") : 0,
      .seed = reader.seed("seed"),
      .data_fingerprint = reader.fingerprint("data_fingerprint"),
      .base_fingerprint = reader.fingerprint("base_fingerprint"),
      .optimizer = reader.text("optimizer"),
      .data_parallel = reader.small_count("data_parallel"),
      .tensor_parallel = reader.small_count("tensor_parallel"),
      .zero_stage = reader.small_count("zero_stage")};
}

}  // namespace weft
