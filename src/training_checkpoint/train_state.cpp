#include "training_checkpoint/train_state.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/file.h"
#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxBytes = 1 << 20;

Json finite_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

/// Reads fields of an object that may hold anything.
class FieldReader {
 public:
  FieldReader(const Json& object, const std::string& path) : object_(object), path_(path) {}

  int64_t count(const char* key) const {
    auto found = object_.find(key);
    if (found == object_.end() || !found->is_number_integer() || found->get<int64_t>() < 0) {
      fail_input("{}: '{}' must be a number of at least 0; damaged", printable(path_), key);
    }
    return found->get<int64_t>();
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

 private:
  const Json& object_;
  const std::string& path_;
};

}  // namespace

std::string train_state_json(const TrainState& state) {
  Json json = {{"step", state.step},
               {"updates", state.updates},
               {"next_row", state.next_row},
               {"tokens_seen", state.tokens_seen},
               {"best_loss", finite_or_null(state.best_loss)},
               {"held_out_loss", finite_or_null(state.held_out_loss)},
               {"seed", state.seed},
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
  return {.step = reader.count("step"),
          .updates = reader.count("updates"),
          .next_row = reader.count("next_row"),
          .tokens_seen = reader.count("tokens_seen"),
          .best_loss = reader.number_or("best_loss", defaults.best_loss),
          .held_out_loss = reader.number_or("held_out_loss", defaults.held_out_loss),
          .seed = reader.seed("seed"),
          .data_parallel = static_cast<int>(reader.count("data_parallel")),
          .tensor_parallel = static_cast<int>(reader.count("tensor_parallel")),
          .zero_stage = static_cast<int>(reader.count("zero_stage"))};
}

}  // namespace weft
