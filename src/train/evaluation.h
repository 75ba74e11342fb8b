// How good a model is on data that it was not trained on.
#pragma once

#include <functional>
#include <span>

#include "tasks/objective.h"

namespace weft {

/// What is known of a micro-batch once it was computed.
using MicroBatchHook = std::function<void(const MicroBatch& micro_batch, const ObjectiveLoss& loss)>;

/// The element of a loss, f32 or f64.
double scalar_of(const Tensor& tensor);

/// Σ weight · loss of this rank's micro-batches, without gradients; the objective counts for its metrics from anew.
/// Ranks that share a model's weights, and data-parallel ranks where the objective asks them, call it together, with as
/// many micro-batches. `adapter` is the model's, for objectives that switch it off.
double evaluate_objective(Context& context,
                          LanguageModel& model,
                          Objective& objective,
                          std::span<const MicroBatch> micro_batches,
                          Communicator& data_parallel,
                          const MicroBatchHook& hook = nullptr,
                          Adapter* adapter = nullptr);

}  // namespace weft
