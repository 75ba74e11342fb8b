#include "launcher/planned_rows.h"

#include <algorithm>

#include "config/run.pb.h"
#include "data/memory_rows.h"
#include "data/task_rows.h"
#include "plan/training_plan.h"

namespace weft {
namespace {

std::unique_ptr<TrainingData> equal_rows(TrainingRow row) {
  return make_memory_rows({std::move(row)}, false, 0);
}

/// A prompt and its completion.
TrainingRow completion_row(int64_t length) {
  TrainingRow row = full_row(length);
  std::fill(row.targets.begin(), row.targets.begin() + length / 2 - 1, -1);
  return row;
}

/// A text with a label of its own, of whose tokens none is scored.
TrainingRow labelled_row(int64_t length) {
  TrainingRow row = full_row(length);
  std::fill(row.targets.begin(), row.targets.end(), -1);
  row.segments.assign(row.ids.size(), 0);
  row.labels = {0};
  return row;
}

TrainingRow question_row(int64_t length) {
  TrainingRow row = labelled_row(length);
  std::fill(row.segments.begin() + length / 2, row.segments.end(), 1);
  row.marks = {
      {.span = 0, .label = 0, .first = static_cast<int32_t>(length / 2), .last = static_cast<int32_t>(length / 2)}};
  return row;
}

TrainingRow tagged_row(int64_t length) {
  TrainingRow row = labelled_row(length);
  std::fill(row.targets.begin() + 1, row.targets.end() - 1, 0);
  return row;
}

TrainingRow marked_row(int64_t length) {
  TrainingRow row = labelled_row(length);
  row.marks = {{.span = 0, .label = 0, .first = 1, .last = 1}};
  return row;
}

/// Two texts that mean the same; with UniLM's attention each is written from the other.
TrainingRow similar_row(int64_t length, bool generates) {
  TrainingRow first = labelled_row(length);
  if (generates) {
    std::fill(first.segments.begin() + length / 2, first.segments.end(), 1);
    std::fill(first.targets.begin() + length / 2 - 1, first.targets.end() - 1, 0);
  }
  TrainingRow row = first;
  row.ids.insert(row.ids.end(), first.ids.begin(), first.ids.end());
  row.targets.insert(row.targets.end(), first.targets.begin(), first.targets.end());
  row.segments.insert(row.segments.end(), first.segments.begin(), first.segments.end());
  row.spans.push_back({.begin = static_cast<int32_t>(length), .length = static_cast<int32_t>(length)});
  row.labels = {0, 0};
  row.scores = {0};
  return row;
}

/// A prompt and two answers.
TrainingRow preference_row(int64_t length) {
  TrainingRow row = completion_row(length), second = row;
  row.ids.insert(row.ids.end(), second.ids.begin(), second.ids.end());
  row.targets.insert(row.targets.end(), second.targets.begin(), second.targets.end());
  row.spans.push_back({.begin = static_cast<int32_t>(length), .length = static_cast<int32_t>(length)});
  row.labels = {0, 0};
  return row;
}

std::unique_ptr<TrainingData> corrupted_rows(const config::TaskConfig& task, int64_t length, int32_t start_id) {
  constexpr size_t kSentinels = 100;
  return make_corrupted_data(equal_rows(full_row(length)),
                             {.start_id = start_id, .end_id = -1, .sentinels = std::vector<int32_t>(kSentinels, 0)},
                             {.density = task.mask_probability(), .mean_length = task.mean_span_length(), .seed = 0});
}

TrainingRow related_row(int64_t length) {
  TrainingRow row = labelled_row(length);
  row.relations = {{.subject_first = 1, .subject_last = 1, .object_first = 1, .object_last = 1}};
  return row;
}

/// With the condition that the model's norms take, if they do.
TrainingRow conditional_row(TrainingRow row, const ConditionConfig& condition) {
  size_t spans = row.spans.size();
  if (!condition.labels.empty()) {
    row.condition_labels.assign(spans, 0);
  } else {
    row.condition_values.assign(spans * static_cast<size_t>(condition.width), 0);
  }
  return row;
}

}  // namespace

std::unique_ptr<TrainingData> planned_rows(const RunConfig& source, const ModelInfo& model) {
  const config::TaskConfig& task = source.message().task();
  int64_t length = source.message().data().sequence_length();
  int32_t start_id = std::max(model.start_id, 0);
  bool is_prefix = model.attention == AttentionPattern::prefix;
  switch (task.kind()) {
    case config::TaskConfig::MASKED_LANGUAGE_MODEL:
      return make_masked_data(equal_rows(full_row(length)),
                              {.mask_id = 0, .vocab_size = 1, .is_special = {}, .is_continued = {}},
                              {.probability = task.mask_probability(), .whole_words = false});
    case config::TaskConfig::SEQUENCE_TO_SEQUENCE:
      return model.has_source ? make_source_data(equal_rows(completion_row(length)), start_id)
                              : make_prefix_data(equal_rows(conditional_row(completion_row(length), model.condition)));
    case config::TaskConfig::SPAN_CORRUPTION:
      return corrupted_rows(task, length, start_id);
    case config::TaskConfig::CLASSIFICATION:
      return equal_rows(labelled_row(length));
    case config::TaskConfig::TAGGING:
      return equal_rows(tagged_row(length));
    case config::TaskConfig::ENTITIES:
      return equal_rows(marked_row(length));
    case config::TaskConfig::RELATIONS:
      return equal_rows(related_row(length));
    case config::TaskConfig::QUESTION_ANSWERING:
      return equal_rows(question_row(length));
    case config::TaskConfig::PREFERENCE:
      return equal_rows(preference_row(length));
    case config::TaskConfig::SIMILARITY:
      return equal_rows(similar_row(length, is_prefix && model.has_language_model_head));
    default:
      return equal_rows(conditional_row(full_row(length), model.condition));
  }
}

}  // namespace weft
