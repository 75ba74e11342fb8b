// What a rank computes at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "data/training_data.h"
#include "models/model.h"

namespace weft {

/// The loss is Σ weight · loss of a token plus Σ label_weight · loss of a sequence, as the task has them: weights are
/// absolute, the caller divides by the whole step's counts over all ranks and micro-batches.
struct MicroBatch {
  Batch batch;
  std::vector<int32_t> targets;             // one a token; −1: not scored
  std::vector<float> weights;               // one a token
  std::vector<int32_t> labels = {};         // one a sequence: its class, or what the task says; −1: not scored
  float label_weight = 0;                   // of each
  std::vector<RowMark> marks = {};          // spans are sequences of the batch
  std::vector<RowRelation> relations = {};  // likewise
  std::vector<float> scores = {};           // one a pair of sequences
  int64_t first_token = 0;                  // index of the first token in the whole step's batch, for dropout
};

}  // namespace weft
