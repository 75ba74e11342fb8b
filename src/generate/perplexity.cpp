#include "generate/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace weft {

namespace {

constexpr int64_t kDefaultContext = 2048;
constexpr int64_t kHiddenRows = 512;
constexpr int64_t kLogitRows = 128;  // 128 MB of logits for a vocabulary of 256k

struct Windows {
  int64_t context;
  int64_t stride;
};

Windows resolve_windows(const ModelInfo& info, const PerplexityOptions& options) {
  int64_t model_context = info.max_positions > 0 ? info.max_positions : kDefaultContext;
  int64_t context = options.context > 0 ? options.context : std::min(model_context, kDefaultContext);
  int64_t stride = options.stride > 0 ? options.stride : context;
  if (context < 2 || (info.max_positions > 0 && context > info.max_positions)) {
    fail(ExitCode::usage, "perplexity: a window of {} tokens; the model takes 2 to {}", context, model_context);
  }
  if (stride > context) {
    fail(ExitCode::usage,
         "perplexity: stride {} leaves out tokens between windows of {}; use at most that",
         stride,
         context);
  }
  return {context, stride};
}

/// Calls body(begin, end, first token to score) for each window.
template <typename Body>
void for_each_window(const Windows& windows, int64_t num_tokens, const Body& body) {
  int64_t scored = 0;
  for (int64_t begin = 0; scored < num_tokens; begin += windows.stride) {
    int64_t end = std::min(begin + windows.context, num_tokens);
    body(begin, end, std::max(scored, begin + 1));
    scored = end;
  }
}

double sum_of(const Tensor& losses) {
  double sum = 0;
  for (int64_t i = 0; i < losses.num_elements(); ++i) {
    sum += losses.dtype() == DType::f64 ? losses.data<double>()[i] : double{losses.data<float>()[i]};
  }
  return sum;
}

/// Sum of the losses of targets, a few rows at a time. Targets of −1 aren't scored.
double sum_losses(Context& context, LanguageModel& model, const Tensor& hidden, const std::vector<int32_t>& targets) {
  double sum = 0;
  auto count = static_cast<int64_t>(targets.size());
  for (int64_t begin = 0; begin < count; begin += kLogitRows) {
    int64_t end = std::min(begin + kLogitRows, count);
    std::vector<int32_t> some(targets.begin() + begin, targets.begin() + end);
    if (std::all_of(some.begin(), some.end(), [](int32_t target) { return target < 0; })) continue;
    std::vector<float> weights(some.size(), 1.0f);
    sum += sum_of(language_model_loss(context, model, hidden.slice(begin, end), some, weights).token_loss);
  }
  return sum;
}

}  // namespace

PerplexityResult measure_perplexity(Context& context,
                                    LanguageModel& model,
                                    std::span<const int32_t> ids,
                                    const PerplexityOptions& options) {
  Windows windows = resolve_windows(model.info(), options);
  auto num_tokens = static_cast<int64_t>(ids.size());
  if (num_tokens < 2)
    fail_input("perplexity: the text has {} tokens; at least 2 are needed to predict one", num_tokens);
  KvCache cache(context, model.kv_cache_shape(options.cache_dtype), 1, std::min(windows.context, num_tokens));
  PerplexityResult result;
  double sum = 0;
  int64_t work_done = 0;
  for_each_window(windows, num_tokens, [&](int64_t window_begin, int64_t window_end, int64_t first_scored) {
    for (int64_t begin = window_begin; begin < window_end; begin += kHiddenRows) {
      int64_t end = std::min(begin + kHiddenRows, window_end);
      Batch batch;
      batch.add({ids.begin() + begin, ids.begin() + end}, begin - window_begin);
      Tensor hidden = model.hidden(context, batch, &cache);
      std::vector<int32_t> targets;
      for (int64_t next = begin + 1; next <= end; ++next) {
        bool is_scored = next >= first_scored && next < window_end;
        targets.push_back(is_scored ? ids[static_cast<size_t>(next)] : -1);
        result.scored_tokens += is_scored ? 1 : 0;
      }
      sum += sum_losses(context, model, hidden, targets);
      work_done += end - begin;
      if (options.on_progress && result.scored_tokens > 0) {
        options.on_progress(work_done, sum / static_cast<double>(result.scored_tokens));
      }
    }
  });
  result.nll = sum / static_cast<double>(result.scored_tokens);
  result.perplexity = std::exp(result.nll);
  return result;
}

int64_t perplexity_work(const ModelInfo& info, int64_t num_tokens, const PerplexityOptions& options) {
  int64_t work = 0;
  for_each_window(
      resolve_windows(info, options), num_tokens, [&](int64_t begin, int64_t end, int64_t) { work += end - begin; });
  return work;
}

}  // namespace weft
