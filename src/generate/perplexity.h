// How well a model predicts a text.
#pragma once

#include <functional>
#include <span>

#include "models/model.h"

namespace weft {

struct PerplexityOptions {
  int64_t context = 0;  // tokens a window; 0: the model's context, at most 2048
  int64_t stride = 0;   // from one window's begin to the next one's; 0: context, that is, no overlap
  DType cache_dtype = DType::f32;
  /// Called after each piece of work: tokens run through the model so far, and the mean so far.
  std::function<void(int64_t tokens, double nll)> on_progress;
};

struct PerplexityResult {
  double nll = 0;             // mean of −log p(token | those before it in its window)
  double perplexity = 0;      // e^nll
  int64_t scored_tokens = 0;  // a window's first token and those that an earlier window scored are not scored
};

/// Runs the model over the windows [0, context), [stride, stride + context), …; each scores the tokens that no window
/// before it did. Whole logits exist for a few rows at a time only. Throws Error(bad_input) for fewer than two tokens,
/// Error(usage) for a window that doesn't fit the model.
PerplexityResult measure_perplexity(Context& context,
                                    LanguageModel& model,
                                    std::span<const int32_t> ids,
                                    const PerplexityOptions& options);

/// Tokens that measure_perplexity will run through the model, for a progress bar.
int64_t perplexity_work(const ModelInfo& info, int64_t num_tokens, const PerplexityOptions& options);

}  // namespace weft
