// Labels of tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "models/task_head.h"

namespace weft {

/// The most likely label of each of some rows, rising, of task_logits: each on its own, or, with transitions, together.
std::vector<int32_t> predict_tags(const TaskHead& head,
                                  const Tensor& logits,
                                  const Tensor& transitions,
                                  std::span<const int32_t> rows);

}  // namespace weft
