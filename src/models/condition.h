// What the norms of a conditional model take beside their input (bert4keras' layer_norm_cond): a vector a sequence, or
// one of some labels that have a vector each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/activation.h"

namespace weft {

class CheckpointReader;
class ModelConfig;
class Tensor;
struct Batch;
struct Parameter;

struct ConditionConfig {
  int64_t width = 0;         // 0: none
  int64_t hidden_width = 0;  // 0: no dense layer between
  Activation activation = Activation::identity;
  std::vector<std::string> labels = {};  // empty: conditions are vectors
  bool is_new = false;                   // asked for by a task: new where the checkpoint has none

  bool is_there() const { return width > 0; }
  friend bool operator==(const ConditionConfig&, const ConditionConfig&) = default;
};

/// Of the tensors of a checkpoint (or null), else of the keys that condition_overrides writes; without width where
/// neither tells of one. Throws Error(bad_input).
ConditionConfig read_condition(const ModelConfig& config, const CheckpointReader* reader);

/// A JSON object with the keys that read_condition reads, to take the place of a config's; empty without a condition.
std::string condition_overrides(const ConditionConfig& condition);

/// Number of a label. Throws Error(bad_input), with those that there are, where it is none or conditions are vectors.
int32_t condition_label(const ConditionConfig& condition, const std::string& label);

/// The conditions of a batch's sequences, [sequences, width] in the dtype of the table `labels` (null: none) or
/// `dtype`; undefined for a model without. Throws Error(bad_input) where the batch has others than the model takes.
Tensor conditions_of(
    Context& context, const ConditionConfig& condition, const Parameter* labels, const Batch& batch, DType dtype);

}  // namespace weft
