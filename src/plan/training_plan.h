// What training needs on a rank, by kind of memory, before anything is loaded: a step of the engine (src/train) on a
// device that has no memory (kernels/planned.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/planned.h"
#include "models/adapter.h"
#include "models/registry.h"
#include "train/engine.h"

namespace weft {

/// What is trained, on which mesh, and what a rank computes at a time.
struct TrainingSetup {
  DType dtype = DType::bf16;
  Quantization quantization = Quantization::none;  // of frozen weights beside an adapter
  EngineOptions engine;                            // with the task's objective
  /// Its first rows are computed, which have to be as long as any; null: rows of a language model that are full.
  std::shared_ptr<const TrainingData> rows = nullptr;
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

/// A row of one text, all of whose tokens are scored.
TrainingRow full_row(int64_t length);

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
  /// share it or the adapter does not fit.
  TrainingPlanner(const OpenedModel& opened, const std::optional<LoraOptions>& lora, int tensor);
  ~TrainingPlanner();

  /// The rank that needs most. setup.tensor must be the planner's.
  TrainingMemory plan(const TrainingSetup& setup) const;
  /// One rank's; of the data-parallel ranks the one that updates most.
  TrainingMemory plan_rank(const TrainingSetup& setup, int tensor_rank) const;

 private:
  struct Rank;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

}  // namespace weft
