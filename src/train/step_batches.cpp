#include "train/step_batches.h"

#include <algorithm>

namespace weft {
namespace {

/// Part `index` of `count` contiguous and nearly equal parts begins here.
int64_t part_begin(int64_t total, int64_t index, int64_t count) {
  return total * index / count;
}

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

void add_row(MicroBatch& micro_batch, const TrainingRow& row) {
  int64_t begin = micro_batch.batch.num_tokens();
  auto first_sequence = static_cast<int32_t>(micro_batch.batch.sequences.size());
  for (const RowSpan& span : row.spans) {
    micro_batch.batch.sequences.push_back({.begin = begin + span.begin, .length = span.length, .past = 0, .slot = 0});
  }
  append(micro_batch.batch.ids, row.ids);
  append(micro_batch.batch.condition_labels, row.condition_labels);
  append(micro_batch.batch.condition_values, row.condition_values);
  append(micro_batch.targets, row.targets);
  append(micro_batch.labels, row.labels);
  append(micro_batch.scores, row.scores);
  for (RowMark mark : row.marks) {
    mark.span += first_sequence;
    micro_batch.marks.push_back(mark);
  }
  for (RowRelation relation : row.relations) {
    relation.span += first_sequence;
    micro_batch.relations.push_back(relation);
  }
  for (const RowSpan& source : row.sources) {
    auto first = row.source_ids.begin() + source.begin;
    micro_batch.batch.add_source({first, first + source.length});
  }
  std::vector<int32_t>& segments = micro_batch.batch.segment_ids;
  if (row.segments.empty() && segments.empty()) return;
  segments.resize(static_cast<size_t>(begin));
  segments.insert(segments.end(), row.segments.begin(), row.segments.end());
  segments.resize(micro_batch.batch.ids.size());
}

/// What a rank without a row of its own computes, since the others wait for it in every collective.
void add_unscored(MicroBatch& micro_batch, TrainingRow row) {
  std::fill(row.targets.begin(), row.targets.end(), -1);
  std::fill(row.labels.begin(), row.labels.end(), -1);
  add_row(micro_batch, row);
}

int64_t count_targets(const std::vector<int32_t>& targets) {
  return std::count_if(targets.begin(), targets.end(), [](int32_t target) { return target >= 0; });
}

}  // namespace

StepBatches deal_out(
    const TrainingData& data, int64_t first_row, int64_t num_rows, int64_t micro_batch_size, DataParallelPlace place) {
  int64_t most_rows = (num_rows + place.size - 1) / place.size;
  int64_t num_micro_batches = micro_batch_size <= 0 ? 1 : (most_rows + micro_batch_size - 1) / micro_batch_size;
  int64_t begin = part_begin(num_rows, place.rank, place.size);
  int64_t end = part_begin(num_rows, place.rank + 1, place.size);
  StepBatches step;
  step.micro_batches.resize(static_cast<size_t>(num_micro_batches));
  int64_t num_sequences = 0;
  int64_t num_source_tokens = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    TrainingRow row = data.row(first_row + r);
    if (r >= begin && r < end) {
      int64_t index = (r - begin) * num_micro_batches / (end - begin);
      MicroBatch& micro_batch = step.micro_batches[static_cast<size_t>(index)];
      if (micro_batch.batch.ids.empty()) {
        micro_batch.first_token = step.tokens;
        micro_batch.batch.first_sequence = num_sequences;
        micro_batch.batch.first_source_token = num_source_tokens;
      }
      add_row(micro_batch, row);
    }
    num_sequences += static_cast<int64_t>(row.spans.size());
    num_source_tokens += static_cast<int64_t>(row.source_ids.size());
    step.tokens += static_cast<int64_t>(row.ids.size());
    step.scored_tokens += count_targets(row.targets);
    step.scored_sequences += count_targets(row.labels);
  }
  float weight = 1.0f / static_cast<float>(std::max<int64_t>(1, step.scored_tokens));
  float label_weight = 1.0f / static_cast<float>(std::max<int64_t>(1, step.scored_sequences));
  for (MicroBatch& micro_batch : step.micro_batches) {
    if (micro_batch.batch.ids.empty()) add_unscored(micro_batch, data.row(first_row));
    micro_batch.weights.assign(micro_batch.batch.ids.size(), weight);
    micro_batch.label_weight = label_weight;
  }
  return step;
}

}  // namespace weft
