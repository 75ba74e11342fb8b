// Rows that are all in memory: those of labelled texts.
#pragma once

#include <memory>
#include <vector>

#include "data/training_data.h"

namespace weft {

/// An epoch is each row once, in an order of its own where they are shuffled. At least one row, each with tokens.
std::unique_ptr<TrainingData> make_memory_rows(std::vector<TrainingRow> rows, bool shuffle, uint64_t seed);

/// How labelled texts become rows.
struct MemoryRowOptions {
  int64_t max_length = 512;  // tokens of a span with its special ones
  bool shuffle = true;
  uint64_t seed = 0;
};

}  // namespace weft
