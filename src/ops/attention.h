// Scaled dot-product attention of packed sequences, without a cache (training) or through one (generation).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// Dropout of a place's attention weights (kernels/attention_dropout.h), with context.training.
struct AttentionDropoutSite {
  float probability = 0;
  uint32_t site = 0;         // the place in the model
  int64_t head_begin = 0;    // number of this rank's first head among all
  int64_t global_heads = 0;  // on all ranks
};

/// What it drops in this pass.
AttentionDropout attention_dropout(const Context& context, const AttentionDropoutSite& site);

struct AttentionOptions {
  int64_t head_dim = 0;
  AttentionMask mask;
  AttentionDropoutSite dropout = {};
};

/// A sequence's place in the packed rows, and with a cache also its slot and how many tokens lie there already.
struct AttentionSpan {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t past = 0;
  int64_t slot = 0;
  /// [length], never falling, 1 to past + length: query i sees keys [0, visible_keys[i]) of past and span together,
  /// whatever causal and window say. Empty: as the mask says.
  std::vector<int32_t> visible_keys = {};
  /// Cross-attention: how many keys there are, at rows [key_begin, key_begin + key_count) of k and v or, through a
  /// cache, in the slot. −1: the keys are the sequence's own.
  int64_t key_count = -1;
  int64_t key_begin = 0;
};

/// A number by head and distance that is added to the scores: of key position − query position d at [head, zero + d].
struct DistanceBias {
  Tensor values;  // [heads, stride], f32 (f64 for f64)
  int64_t zero = 0;
  bool defined() const { return values.defined(); }
};

/// From a table [rows, heads]: distance d, from `lowest` on, reads row rows[d − lowest].
DistanceBias distance_bias(Context& context, const Tensor& table, std::span<const int32_t> rows, int64_t lowest);

/// q is [tokens, heads · head_dim], k and v [key tokens, kv_heads · head_dim]; each sequence attends to itself only, or
/// to its span's keys. All keys belong to some sequence, in the sequences' order.
Tensor attention(Context& context,
                 const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 std::span<const AttentionSpan> sequences,
                 const AttentionOptions& options,
                 const DistanceBias& bias = {});

/// Writes k and v behind the `past` tokens of each sequence's slot and attends to everything in the slot. The caches
/// are [slots, kv_heads, max_tokens, head_dim]. Has no backward.
Tensor cached_attention(Context& context,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        Tensor& key_cache,
                        Tensor& value_cache,
                        std::span<const AttentionSpan> sequences,
                        const AttentionOptions& options,
                        const DistanceBias& bias = {});

/// cached_attention of rope(q) and rope(k) (ops/rope.h), which must not be used after.
Tensor rope_cached_attention(Context& context,
                             const Tensor& q,
                             const Tensor& k,
                             const Tensor& v,
                             const Tensor& rope_table,
                             Tensor& key_cache,
                             Tensor& value_cache,
                             std::span<const AttentionSpan> sequences,
                             const AttentionOptions& options);

/// Attends to the key_count keys that each span's slot holds already. Has no backward.
Tensor cached_cross_attention(Context& context,
                              const Tensor& q,
                              const Tensor& key_cache,
                              const Tensor& value_cache,
                              std::span<const AttentionSpan> sequences,
                              const AttentionOptions& options,
                              const DistanceBias& bias = {});

/// Writes rows of x behind the `past` tokens of each sequence's slot of a cache [slots, kv_heads, max_tokens, width].
void write_attention_cache(Context& context, const Tensor& x, Tensor& cache, std::span<const AttentionSpan> sequences);

/// New keys and values with the caches they go to.
struct CacheInputs {
  const Tensor &k, &v;
  Tensor &key_cache, &value_cache;
};

/// The same for keys and values at once.
void write_attention_caches(Context& context, const CacheInputs& inputs, std::span<const AttentionSpan> sequences);

}  // namespace weft
