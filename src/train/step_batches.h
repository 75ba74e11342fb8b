// The rows of a step, dealt out to data-parallel ranks and micro-batches.
#pragma once

#include <cstdint>
#include <vector>

#include "data/training_data.h"
#include "train/engine.h"

namespace weft {

/// One of the ranks that have rows of their own.
struct DataParallelPlace {
  int rank = 0;
  int size = 1;
};

/// What all ranks compute in a step, and this one's share of it.
struct StepBatches {
  std::vector<MicroBatch> micro_batches;
  // Of all ranks:
  int64_t tokens = 0;
  int64_t scored_tokens = 0;     // each weighs 1 / scored_tokens
  int64_t scored_sequences = 0;  // those with a label; each weighs 1 / scored_sequences

  bool is_scored() const { return scored_tokens + scored_sequences > 0; }
};

/// Rows [first_row, first_row + num_rows) of the data: contiguous shares for the ranks, each computed
/// `micro_batch_size` rows at a time (0: all at once). num_rows need not divide evenly: every rank gets as many
/// micro-batches as the others; one that would be empty holds a row without targets.
StepBatches deal_out(
    const TrainingData& data, int64_t first_row, int64_t num_rows, int64_t micro_batch_size, DataParallelPlace place);

}  // namespace weft
