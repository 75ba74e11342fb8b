// Entities that may overlap or nest, by GlobalPointer.
#pragma once

#include <vector>

#include "core/tensor.h"
#include "models/task_head.h"
#include "ops/global_pointer.h"

namespace weft {

struct PredictedMark {
  PointerMark mark;
  float score = 0;  // above 0
};

PointerShape pointer_shape(const TaskHead& head);

/// What is marked in a sequence of task_logits, by first token, then by last.
std::vector<PredictedMark> predict_marks(const TaskHead& head, const Tensor& logits, int64_t begin, int64_t length);

}  // namespace weft
