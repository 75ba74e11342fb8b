// Scaled dot-product attention of packed sequences, without a cache (training) or through one (generation).
#pragma once

#include <span>

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

}  // namespace weft
