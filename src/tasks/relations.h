// Relations between entities, by GPLinker (Su, "GPLinker: joint extraction of entities and relations based on
// GlobalPointer", 2022).
#pragma once

#include <array>
#include <vector>

#include "core/tensor.h"
#include "data/training_data.h"
#include "models/task_head.h"
#include "ops/global_pointer.h"

namespace weft {

/// Labels of the layer: subjects, objects, then for each label of the head the pairs of first tokens, then those of
/// last ones.
PointerShape relation_shape(const TaskHead& head);

/// The pairs that a relation marks, by those labels.
std::array<PointerMark, 4> marks_of(const RowRelation& relation, const PointerShape& shape);

/// What task_logits say of a sequence: relations of subjects and objects whose first tokens and whose last tokens are
/// marked for the same label. Entities hold neither the first nor the last token, which are special.
std::vector<RowRelation> predict_relations(const TaskHead& head, const Tensor& logits, int64_t begin, int64_t length);

}  // namespace weft
