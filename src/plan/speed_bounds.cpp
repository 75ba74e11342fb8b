#include "plan/speed_bounds.h"

#include <algorithm>

namespace weft {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";

bool is_token_table(const Parameter& parameter, const ModelInfo& info) {
  return parameter.name == (info.is_recurrent ? "emb.weight" : kEmbedding);
}

/// Whether a pass reads all of a parameter; of an untied token table it reads a row a token.
bool is_read_whole(const Parameter& parameter, const ModelInfo& info) {
  return !is_token_table(parameter, info) || info.tied_embedding;
}

/// The matrix that makes logits of hidden states.
bool is_output_head(const Parameter& parameter, const ModelInfo& info) {
  if (info.tied_embedding) return is_token_table(parameter, info);
  return parameter.name == (info.is_recurrent ? "head.weight" : "lm_head.weight");
}

/// What a step reads of a parameter that it needs whole.
int64_t read_bytes(const Parameter& parameter, const LoadOptions& weights) {
  if (weights.quantization != Quantization::none) return parameter_bytes(make_cpu_context(1), parameter, weights);
  return parameter.local_shape.num_elements() * static_cast<int64_t>(dtype_bytes(weights.dtype));
}

/// What one sequence's states take.
int64_t state_bytes(const KvCacheShape& cache) {
  int64_t bytes = 0;
  for (const CacheState& state : cache.states) {
    bytes += state.shape.num_elements() * static_cast<int64_t>(dtype_bytes(state.dtype));
  }
  return bytes;
}

int64_t window_of(const OpenedModel& opened, int64_t layer) {
  const std::vector<int64_t>& windows = opened.decoder("a bound of speed").windows;
  return windows.empty() ? 0 : windows[static_cast<size_t>(layer)];
}

/// Keys that the queries at positions 0 … tokens − 1 see, together.
double visible_keys(int64_t tokens, int64_t window) {
  auto n = static_cast<double>(tokens);
  if (window <= 0 || tokens <= window) return n * (n + 1) / 2;
  auto w = static_cast<double>(window);
  return w * (w + 1) / 2 + (n - w) * w;
}

}  // namespace

DecodeCost decode_cost(const OpenedModel& opened,
                       const LanguageModel& model,
                       const LoadOptions& weights,
                       const Workload& workload) {
  DType dtype = weights.dtype;
  DecodeCost cost;
  const ModelInfo& info = model.info();
  for (const Parameter& parameter : model.parameters().all()) {
    if (!is_read_whole(parameter, info)) continue;
    cost.weight_bytes += read_bytes(parameter, weights);
  }
  KvCacheShape cache = model.kv_cache_shape(dtype);
  if (info.is_recurrent) {
    cost.cache_bytes = 2 * workload.batch * state_bytes(cache);
    return cost;
  }
  int64_t token_bytes = 2 * cache.num_kv_heads * cache.head_dim * static_cast<int64_t>(dtype_bytes(dtype));
  int64_t tokens = workload.prompt_tokens + workload.new_tokens / 2;
  for (int64_t layer = 0; layer < info.num_layers; ++layer) {
    int64_t window = window_of(opened, layer);
    cost.cache_bytes += workload.batch * token_bytes * (window > 0 ? std::min(window, tokens) : tokens);
  }
  return cost;
}

Seq2SeqCost seq2seq_cost(const LanguageModel& model, const LoadOptions& weights, const Seq2SeqWorkload& workload) {
  const ModelInfo& info = model.info();
  DType dtype = weights.dtype;
  const std::string head = info.tied_embedding ? "shared.weight" : "lm_head.weight";
  auto element_bytes = static_cast<int64_t>(dtype_bytes(dtype));
  auto tokens = static_cast<double>(workload.batch * workload.source_tokens);
  int64_t query_columns = 0;  // of all of the encoder's blocks
  Seq2SeqCost cost;
  for (const Parameter& parameter : model.parameters().all()) {
    const std::string& name = parameter.name;
    bool is_of_encoder = name.starts_with("encoder.");
    bool makes_source_keys = name.ends_with("EncDecAttention.k.weight") || name.ends_with("EncDecAttention.v.weight");
    if (parameter.is_matrix && (is_of_encoder || makes_source_keys)) {
      cost.source_flops += 2 * tokens * static_cast<double>(parameter.local_shape.num_elements());
    }
    if (is_of_encoder && name.ends_with("SelfAttention.q.weight")) query_columns += parameter.local_shape[0];
    bool is_read_by_steps = name == head || (name.starts_with("decoder.") && !makes_source_keys);
    if (is_read_by_steps) cost.weight_bytes += read_bytes(parameter, weights);
  }
  cost.source_flops += 4 * tokens * static_cast<double>(query_columns * workload.source_tokens);
  KvCacheShape cache = model.kv_cache_shape(dtype);
  int64_t token_bytes = cache.num_layers * 2 * cache.num_kv_heads * cache.head_dim * element_bytes;
  int64_t cached_tokens = workload.num_beams * workload.new_tokens / 2 + workload.source_tokens;
  cost.cache_bytes = workload.batch * token_bytes * cached_tokens;
  return cost;
}

double prefill_flops(const OpenedModel& opened, const LanguageModel& model, const Workload& workload) {
  const ModelInfo& info = model.info();
  auto batch = static_cast<double>(workload.batch);
  double tokens = batch * static_cast<double>(workload.prompt_tokens);
  double flops = 0;
  int64_t query_columns = 0;
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.name == "model.layers.0.self_attn.q_proj.weight") query_columns = parameter.local_shape[0];
    auto elements = static_cast<double>(parameter.local_shape.num_elements());
    if (is_output_head(parameter, info)) {
      flops += 2 * batch * elements;
    } else if (parameter.is_matrix) {
      flops += 2 * tokens * elements;
    }
  }
  if (info.is_recurrent) {
    // A token reads its heads' matrices and adds to them; both are products.
    for (const CacheState& state : model.kv_cache_shape(DType::f32).states) {
      if (state.shape.rank() == 3) flops += 4 * tokens * static_cast<double>(state.shape.num_elements());
    }
    return flops;
  }
  for (int64_t layer = 0; layer < info.num_layers; ++layer) {
    flops +=
        4 * batch * static_cast<double>(query_columns) * visible_keys(workload.prompt_tokens, window_of(opened, layer));
  }
  return flops;
}

double training_flops_per_token(const LanguageModel& model, int64_t sequence_length, int64_t adapter_weights) {
  const ModelInfo& info = model.info();
  double weights = 0;
  for (const Parameter& parameter : model.parameters().all()) {
    if (parameter.is_matrix) weights += static_cast<double>(parameter.full_shape.num_elements());
  }
  double products = adapter_weights > 0 ? 4 * weights + 6 * static_cast<double>(adapter_weights) : 6 * weights;
  return products + 6.0 * static_cast<double>(info.num_layers * info.num_heads * info.head_dim * sequence_length);
}

}  // namespace weft
