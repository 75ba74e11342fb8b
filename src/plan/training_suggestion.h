// Which mesh, ZeRO stage, recomputation and micro-batch let a model be trained on so many devices of so much memory.
#pragma once

#include <cstdint>
#include <optional>

#include "plan/training_plan.h"

namespace weft {

struct SuggestionRequest {
  TrainingSetup setup;  // dtype, optimizer, sequence length, …; mesh, stage, recomputation and rows are chosen
  std::optional<LoraOptions> lora;
  int num_devices = 1;
  int64_t device_bytes = 0;
  int64_t batch_rows = 8;  // of a step, all ranks together
};

struct TrainingSuggestion {
  TrainingSetup setup;
  TrainingMemory memory;
};

/// The first that fits, in this order of preference: as little computed again as possible (none, selective, every
/// second block, every block), a lower ZeRO stage (0 and 1 are the same work), fewer tensor-parallel ranks, more rows
/// at a time. So more memory never gives one of more work. Nothing if none fits.
std::optional<TrainingSuggestion> suggest_training(const OpenedModel& opened, const SuggestionRequest& request);

/// What needs least on so many devices. Throws Error(bad_input) if so many cannot share the model and the batch at all.
TrainingSuggestion least_training(const OpenedModel& opened, const SuggestionRequest& request);

/// The first multiple of num_devices by a power of two, at most `max_devices`, for which there is a suggestion; 0 when
/// there is none.
int smallest_device_count(const OpenedModel& opened, SuggestionRequest request, int max_devices = 1024);

}  // namespace weft
