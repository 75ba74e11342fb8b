// What training needs on a rank, by kind of memory, before anything is loaded: a step of the engine (src/train) played
// through with shapes alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/adapter.h"
#include "models/registry.h"
#include "plan/memory_ledger.h"
#include "train/engine.h"

namespace weft {

/// What is trained, on which mesh, and what a rank computes at a time.
struct TrainingSetup {
  DType dtype = DType::bf16;
  EngineOptions engine;
  int data = 1;    // ranks with rows of their own
  int tensor = 1;  // ranks that share the weights
  bool sequence_parallel = false;
  int64_t micro_batch_rows = 1;
  int64_t sequence_length = 1024;
  int64_t num_micro_batches = 1;  // of a rank in a step
  int num_threads = 1;            // of a rank
  bool loads_by_block = true;     // as weft train does (EngineOptions::load_block); false: weights are all loaded first
  bool writes_samples = false;    // for which every rank has all weights in place
};

/// Bytes of one rank, as its MemoryTracker counts them.
struct TrainingMemory {
  BytesByTag peaks{};           // each kind's own highest, at whatever moment
  int64_t peak_total = 0;       // the highest sum
  BytesByTag at_peak{};         // what it consists of
  std::string_view moment;      // when: "load", "forward", "loss", "backward", "update", "samples"
  TensorParallelPlace place{};  // of the rank

  int64_t peak(MemoryTag tag) const { return peaks[static_cast<size_t>(tag)]; }
};

/// Plans for one model, adapter and tensor-parallel degree; the rest may vary from call to call.
class TrainingPlanner {
 public:
  /// Declares the model for each tensor-parallel rank, without memory. Throws Error(bad_input) when the ranks cannot
  /// share it or the adapter does not fit. `opened` must outlive the planner.
  TrainingPlanner(const OpenedModel& opened, const std::optional<LoraOptions>& lora, int tensor);
  ~TrainingPlanner();

  /// The rank that needs most. setup.tensor must be the planner's.
  TrainingMemory plan(const TrainingSetup& setup) const;
  /// One rank's; of the data-parallel ranks the one that updates most.
  TrainingMemory plan_rank(const TrainingSetup& setup, int tensor_rank) const;

 private:
  struct Rank;
  const OpenedModel& opened_;
  std::optional<LoraOptions> lora_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

}  // namespace weft
