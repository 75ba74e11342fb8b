// The most that a machine can do with a model: bytes that must pass memory and operations that must be computed.
#pragma once

#include <cstdint>
#include <string>

#include "models/registry.h"
#include "plan/memory_plan.h"

namespace weft {

/// Of one rank.
struct DecodeCost {
  int64_t weight_bytes = 0;  // read at every step, whatever the batch
  int64_t cache_bytes = 0;   // keys and values read at a step half way through the answers, all sequences together
};
DecodeCost decode_cost(const OpenedModel& opened,
                       const CausalLanguageModel& model,
                       DType dtype,
                       const Workload& workload);

/// Floating-point operations of one rank for the prompts of a batch: 2 a weight and token, 4·head_dim a query head and
/// visible key, and the logits of each prompt's last token.
double prefill_flops(const OpenedModel& opened, const CausalLanguageModel& model, const Workload& workload);

}  // namespace weft
