#include "models/condition.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/model.h"
#include "models/model_config.h"
#include "ops/embedding.h"

namespace weft {
namespace {

constexpr int64_t kMaxWidth = 1 << 20;
constexpr const char* kSizeKey = "layer_norm_cond_size";
constexpr const char* kHiddenSizeKey = "layer_norm_cond_hidden_size";
constexpr const char* kActivationKey = "layer_norm_cond_hidden_act";
constexpr const char* kLabelsKey = "layer_norm_cond_labels";
constexpr const char* kNewKey = "new_layer_norm_cond";

/// The dense layers of a norm: the hidden one, without which the other is that of the bias.
struct NormTensors {
  const TensorInfo* hidden = nullptr;
  const TensorInfo* bias = nullptr;
  bool is_transposed = false;  // [in, out]
};

NormTensors find_norm(const CheckpointReader& reader) {
  constexpr std::string_view kOurs = ".condition.bias_dense.weight";
  const std::string keras = "layers/layer_normalization/";
  NormTensors found{.hidden = reader.find(keras + "hidden_dense/vars/0"),
                    .bias = reader.find(keras + "beta_dense/vars/0"),
                    .is_transposed = true};
  if (found.bias != nullptr) return found;
  for (const std::string& name : reader.names()) {
    if (!name.ends_with(kOurs)) continue;
    std::string norm = name.substr(0, name.size() - kOurs.size());
    return {.hidden = reader.find(norm + ".condition.hidden_dense.weight"), .bias = reader.find(name)};
  }
  return {};
}

}  // namespace

ConditionConfig read_condition(const ModelConfig& config, const CheckpointReader* reader) {
  ConditionConfig condition;
  // What may be set, whatever the tensors say.
  std::string activation = config.string_or(kActivationKey, "linear");
  condition.labels = config.strings(kLabelsKey);
  condition.is_new = config.boolean_or(kNewKey, false);
  NormTensors norm = reader == nullptr ? NormTensors{} : find_norm(*reader);
  if (norm.bias != nullptr) {
    const TensorInfo& first = norm.hidden != nullptr ? *norm.hidden : *norm.bias;
    if (first.shape.rank() != 2) {
      fail_input("{}: {} is {}, expected a matrix", first.file, first.name, to_string(first.shape));
    }
    condition.width = first.shape[norm.is_transposed ? 0 : 1];
    if (norm.hidden != nullptr) condition.hidden_width = first.shape[norm.is_transposed ? 1 : 0];
  } else if (condition.is_new || (reader == nullptr && config.has(kSizeKey))) {
    condition.width = config.size(kSizeKey, kMaxWidth);
    condition.hidden_width = config.has(kHiddenSizeKey) ? config.size(kHiddenSizeKey, kMaxWidth) : 0;
  } else {
    return {};
  }
  condition.activation = parse_activation(activation);
  return condition;
}

std::string condition_overrides(const ConditionConfig& condition) {
  if (!condition.is_there()) return "";
  nlohmann::ordered_json overrides = {{kNewKey, true}, {kSizeKey, condition.width}};
  if (condition.hidden_width > 0) {
    overrides[kHiddenSizeKey] = condition.hidden_width;
    overrides[kActivationKey] = activation_name(condition.activation);
  }
  if (!condition.labels.empty()) overrides[kLabelsKey] = condition.labels;
  return overrides.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

int32_t condition_label(const ConditionConfig& condition, const std::string& label) {
  if (!condition.is_there()) fail_input("a condition was given to a model whose norms take none");
  if (condition.labels.empty()) {
    fail_input("the condition is '{}', but this model's are lists of {} numbers", printable(label), condition.width);
  }
  auto found = std::find(condition.labels.begin(), condition.labels.end(), label);
  if (found != condition.labels.end()) return static_cast<int32_t>(found - condition.labels.begin());
  fail_input("the condition '{}' is none that the model knows: {}",
             printable(label),
             printable(fmt::format("{}", fmt::join(condition.labels, ", ")), 400));
}

Tensor conditions_of(
    Context& context, const ConditionConfig& condition, const Parameter* labels, const Batch& batch, DType dtype) {
  auto count = static_cast<int64_t>(batch.sequences.size());
  bool has_labels = !batch.condition_labels.empty();
  bool is_given = batch.condition.defined() || has_labels || !batch.condition_values.empty();
  if (condition.is_there() != is_given) {
    fail_input("{}",
               condition.is_there() ? "this model's norms take a condition, and none was given"
                                    : "a condition was given to a model whose norms take none");
  }
  if (!is_given) return {};
  if (has_labels) {
    WEFT_ASSERT(labels != nullptr && std::ssize(batch.condition_labels) == count);
    return embedding(context, labels->value, batch.condition_labels, 0, 1);
  }
  int64_t width = batch.condition.defined() ? batch.condition.size(1) : std::ssize(batch.condition_values) / count;
  if (width != condition.width) {
    fail_input("a condition of {} numbers was given, this model takes {}", width, condition.width);
  }
  if (batch.condition.defined()) return batch.condition;
  WEFT_ASSERT(std::ssize(batch.condition_values) == count * width);
  Tensor values = context.empty({count, width}, dtype);
  values.set_values(batch.condition_values.data(), DType::f32);
  return values;
}

}  // namespace weft
