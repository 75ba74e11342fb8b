// Labels of tokens and the entities that they mark.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "models/task_head.h"

namespace weft {

/// Tokens (or words) first to last of a sequence.
struct TaggedEntity {
  std::string label;
  int32_t first = 0, last = 0;
  friend bool operator==(const TaggedEntity&, const TaggedEntity&) = default;
};

/// Whether labels mark where entities begin: "B-PER", "I-PER", "O"; also "E-" and "S-", and "B", "M", "E", "S" of word
/// segmentation.
bool marks_entities(const std::vector<std::string>& labels);

/// What a sequence of labels marks. One that goes on where nothing began begins, as conlleval has it.
std::vector<TaggedEntity> entities_of(std::span<const int32_t> tags, const std::vector<std::string>& labels);

/// The most likely label of each of some rows of task_logits: each on its own, or, with transitions, together.
std::vector<int32_t> predict_tags(const TaskHead& head,
                                  const Tensor& logits,
                                  const Tensor& transitions,
                                  std::span<const int32_t> rows);

}  // namespace weft
