#include "plan/memory_plan.h"

#include <algorithm>

#include "core/error.h"
#include "plan/kernel_scratch.h"

namespace weft {
namespace {

/// The generator sizes its cache in these steps.
constexpr int64_t kCacheRounding = 64;
/// Keys that one piece of decode attention covers, each with a partial result of its own.
constexpr int64_t kDecodeKeys = 256;
/// Rows and keys that one piece of prefill attention holds at a time.
constexpr int64_t kPrefillRows = 256;
constexpr int64_t kPrefillKeys = 128;

constexpr int64_t kFloatBytes = 4;

int64_t ceil_div(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

/// This rank's widths: H hidden, Q and K query and key columns, F feed-forward columns, V vocabulary columns.
struct LocalWidths {
  int64_t hidden = 0;
  int64_t query = 0;
  int64_t key = 0;
  int64_t feed_forward = 0;
  int64_t vocabulary = 0;
};

int64_t local_rows(const LanguageModel& model, const char* name) {
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.name == name) return parameter.local_shape[0];
  }
  WEFT_ASSERT(false, "no parameter {}", name);
  return 0;
}

LocalWidths local_widths(const LanguageModel& model) {
  return {.hidden = model.info().hidden_size,
          .query = local_rows(model, "model.layers.0.self_attn.q_proj.weight"),
          .key = local_rows(model, "model.layers.0.self_attn.k_proj.weight"),
          .feed_forward = local_rows(model, "model.layers.0.mlp.gate_proj.weight"),
          .vocabulary = local_rows(model, "model.embed_tokens.weight")};
}

/// What one pass of the model runs: tokens, and how many of them get logits.
struct Pass {
  int64_t tokens = 0;
  int64_t logit_rows = 0;
};

class Planner {
 public:
  Planner(const OpenedModel& opened, TensorParallelPlace place, const LoadOptions& weights, const Workload& workload)
      : opened_(opened),
        place_(place),
        weights_(weights),
        dtype_(weights.dtype),
        workload_(workload),
        model_(opened.make(place)),
        info_(model_->info()),
        widths_(local_widths(*model_)) {}

  MemoryPlan plan() {
    Context context = make_cpu_context(1);
    MemoryPlan result;
    for (const Parameter& parameter : model_->parameters().all()) {
      result.weights += parameter_bytes(context, parameter, weights_);
    }
    int64_t cache_tokens = ceil_div(workload_.context(), kCacheRounding) * kCacheRounding;
    result.kv_cache = model_->kv_cache_shape(dtype_).bytes(workload_.batch, cache_tokens);
    for (const Pass& pass : passes()) {
      result.activations = std::max(result.activations, activations(pass));
      result.comm = std::max(result.comm, comm(pass));
    }
    result.workspace = std::max({prefill_workspace(), decode_workspace(), linear_workspace()});
    return result;
  }

 private:
  /// The passes that can need most: a full chunk beside rows that already answer, the end of the prompts, and decode.
  std::vector<Pass> passes() const {
    int64_t prompts = workload_.batch * workload_.prompt_tokens;
    int64_t chunk = std::min(workload_.prefill_chunk, prompts);
    std::vector<Pass> result = {{workload_.batch, workload_.batch}};
    int64_t ends_in_chunk = std::min(workload_.batch, ceil_div(chunk, workload_.prompt_tokens));
    if (prompts <= workload_.prefill_chunk) {
      result.push_back({prompts, workload_.batch});
      return result;
    }
    int64_t answering = std::min(workload_.batch - 1, (prompts - chunk) / workload_.prompt_tokens);
    result.push_back({chunk + answering, std::min(workload_.batch, answering + ends_in_chunk)});
    return result;
  }

  int64_t element_bytes() const { return static_cast<int64_t>(dtype_bytes(dtype_)); }

  /// Alive together in a block: its input (residual stream and the branch of the block before), their sum and its
  /// norm, the attention's output, the sum with it and its norm; gate, up and their product, or this and the output.
  int64_t block_activations(int64_t tokens) const {
    int64_t input = info_.num_layers > 1 ? 2 * widths_.hidden : 0;  // the first block's is the sum itself
    int64_t feed_forward =
        input + std::max(5 * widths_.hidden + 3 * widths_.feed_forward, 6 * widths_.hidden + widths_.feed_forward);
    int64_t attention = input + 3 * widths_.hidden + 2 * widths_.query + 2 * widths_.key;
    int64_t rope_table = info_.head_dim * kFloatBytes;
    return tokens * (std::max(feed_forward, attention) * element_bytes() + rope_table);
  }

  int64_t logit_activations(const Pass& pass) const {
    int64_t hidden = pass.tokens * widths_.hidden;
    if (pass.logit_rows != pass.tokens) hidden += pass.logit_rows * widths_.hidden;
    int64_t columns =
        opened_.decoder("memory planning").logit_soft_cap > 0 ? 2 * widths_.vocabulary : widths_.vocabulary;
    if (place_.size > 1) columns = std::max(columns, widths_.vocabulary + info_.vocab_size);
    return hidden * element_bytes() + pass.logit_rows * columns * kFloatBytes;
  }

  int64_t activations(const Pass& pass) const {
    return std::max(block_activations(pass.tokens), logit_activations(pass));
  }

  /// The logits of all ranks, before they are put side by side.
  int64_t comm(const Pass& pass) const {
    if (place_.size == 1) return 0;
    return pass.logit_rows * ceil_div(info_.vocab_size, place_.size) * place_.size * kFloatBytes;
  }

  int64_t kv_heads() const { return widths_.key / info_.head_dim; }
  int64_t group() const { return std::max<int64_t>(1, widths_.query / widths_.key); }

  int64_t prefill_workspace() const {
    int64_t rows = std::min(kPrefillRows, workload_.prompt_tokens * group());
    int64_t queries_and_sums = rows * info_.head_dim * (element_bytes() + kFloatBytes);
    int64_t keys_and_values = 2 * info_.head_dim * kPrefillKeys * element_bytes();
    return workload_.num_threads * (queries_and_sums + keys_and_values);
  }

  int64_t decode_workspace() const {
    int64_t pieces = workload_.batch * kv_heads() * ceil_div(workload_.context(), kDecodeKeys);
    return pieces * group() * (info_.head_dim + 2) * kFloatBytes;
  }

  /// Of the widest product of the largest pass.
  int64_t linear_workspace() const {
    int64_t bytes = 0;
    for (const Parameter& parameter : model_->parameters().all()) {
      if (!parameter.is_matrix) continue;
      for (const Pass& pass : passes()) {
        LinearSizes sizes{.rows = pass.tokens, .in_features = parameter.local_shape[1]};
        int64_t spread = spread_rows_scratch(dtype_, sizes.rows, sizes.in_features, workload_.num_threads);
        int64_t widened = weights_.quantization == Quantization::none
                              ? 0
                              : quantized_linear_scratch(dtype_, sizes, workload_.num_threads);
        bytes = std::max(bytes, spread + widened);
      }
    }
    return bytes;
  }

  const OpenedModel& opened_;
  TensorParallelPlace place_;
  LoadOptions weights_;
  DType dtype_;
  Workload workload_;
  std::unique_ptr<LanguageModel> model_;
  const ModelInfo& info_;
  LocalWidths widths_;
};

bool fits(
    const OpenedModel& opened, int num_ranks, const LoadOptions& weights, const Workload& workload, int64_t bytes) {
  try {
    return plan_largest_rank(opened, num_ranks, weights, workload).plan.total() <= bytes;
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_input) throw;
    return false;  // the ranks cannot share the model
  }
}

}  // namespace

MemoryPlan plan_memory(const OpenedModel& opened,
                       TensorParallelPlace place,
                       const LoadOptions& weights,
                       const Workload& workload) {
  opened.decoder("memory planning");
  return Planner(opened, place, weights, workload).plan();
}

LargestRank plan_largest_rank(const OpenedModel& opened,
                              int num_ranks,
                              const LoadOptions& weights,
                              const Workload& workload) {
  LargestRank largest{.rank = 0, .plan = plan_memory(opened, {.rank = 0, .size = num_ranks}, weights, workload)};
  for (int rank = 1; rank < num_ranks; ++rank) {
    MemoryPlan plan = plan_memory(opened, {.rank = rank, .size = num_ranks}, weights, workload);
    if (plan.total() > largest.plan.total()) largest = {.rank = rank, .plan = plan};
  }
  return largest;
}

int smallest_fitting_degree(
    const OpenedModel& opened, const LoadOptions& weights, const Workload& workload, int64_t bytes, int max_size) {
  for (int size = 1; size <= max_size; ++size) {
    if (fits(opened, size, weights, workload, bytes)) return size;
  }
  return 0;
}

}  // namespace weft
