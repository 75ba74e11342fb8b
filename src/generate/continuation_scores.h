// How likely a model holds texts behind others: what choices are made by.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/model.h"

namespace weft {

/// What stands behind the first `prompt_tokens` of the ids.
struct Continuation {
  std::vector<int32_t> ids;
  int64_t prompt_tokens = 0;  // at least 1
};

struct ContinuationOptions {
  int64_t batch_tokens = 2048;  // computed at a time, at least one text
  std::function<void(int64_t texts)> on_progress = nullptr;
};

/// Σ log p(token | all before) over a continuation's tokens, of each. A text beyond the model's context loses tokens at
/// its beginning. For causal models; the same on every tensor-parallel rank. Throws Error(bad_input) for one without a
/// prompt or a continuation, and for a continuation that the context does not hold.
std::vector<double> continuation_log_likelihoods(Context& context,
                                                 LanguageModel& model,
                                                 const std::vector<Continuation>& continuations,
                                                 const ContinuationOptions& options);

}  // namespace weft
