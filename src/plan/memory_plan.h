// What a generation run needs on a rank, by kind of memory, before anything is loaded.
#pragma once

#include <cstdint>

#include "models/registry.h"

namespace weft {

/// A batch of equal prompts and answers, as the generator runs it.
struct Workload {
  int64_t batch = 1;
  int64_t prompt_tokens = 512;
  int64_t new_tokens = 128;
  int64_t prefill_chunk = 512;  // prompt tokens computed at a time
  int num_threads = 1;

  int64_t context() const { return prompt_tokens + new_tokens; }
};

/// Bytes. The high-water marks of the memory tags of the same names (core/memory.h); buffers are workspace and comm.
struct MemoryPlan {
  int64_t weights = 0;
  int64_t kv_cache = 0;
  int64_t activations = 0;
  int64_t workspace = 0;
  int64_t comm = 0;

  int64_t buffers() const { return workspace + comm; }
  int64_t total() const { return weights + kv_cache + activations + buffers(); }
};

/// The plan of one rank, which computes in the dtype of `weights`. Nothing is allocated. Throws Error(bad_input) when
/// the ranks cannot share the model.
MemoryPlan plan_memory(const OpenedModel& opened,
                       TensorParallelPlace place,
                       const LoadOptions& weights,
                       const Workload& workload);

/// The plan of the rank that needs most; heads that the ranks do not divide make their shares uneven.
struct LargestRank {
  int rank = 0;
  MemoryPlan plan;
};
LargestRank plan_largest_rank(const OpenedModel& opened,
                              int num_ranks,
                              const LoadOptions& weights,
                              const Workload& workload);

/// The smallest tensor-parallel degree up to `max_size` at which every rank needs at most `bytes`; 0 when there is
/// none.
int smallest_fitting_degree(
    const OpenedModel& opened, const LoadOptions& weights, const Workload& workload, int64_t bytes, int max_size = 64);

}  // namespace weft
