// Scaled dot-product attention of packed sequences, without a cache (training) or through one (generation).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/context.h"

namespace weft {

struct AttentionOptions {
  int64_t head_dim = 0;
  AttentionMask mask;
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
};

/// q is [tokens, heads · head_dim], k and v [tokens, kv_heads · head_dim]; each sequence attends to itself only.
Tensor attention(Context& context,
                 const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 std::span<const AttentionSpan> sequences,
                 const AttentionOptions& options);

/// Writes k and v behind the `past` tokens of each sequence's slot and attends to everything in the slot. The caches
/// are [slots, kv_heads, max_tokens, head_dim]. Has no backward.
Tensor cached_attention(Context& context,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        Tensor& key_cache,
                        Tensor& value_cache,
                        std::span<const AttentionSpan> sequences,
                        const AttentionOptions& options);

/// Writes rows of x behind the `past` tokens of each sequence's slot of a cache [slots, kv_heads, max_tokens, width].
void write_attention_cache(Context& context, const Tensor& x, Tensor& cache, std::span<const AttentionSpan> sequences);

}  // namespace weft
