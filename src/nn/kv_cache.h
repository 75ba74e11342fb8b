// Keys and values of past tokens, for all layers of a model.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/context.h"

namespace weft {

/// What a cache is sized by, on this rank.
struct KvCacheShape {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;    // held by this rank
  int64_t head_dim = 0;        // of keys
  int64_t value_head_dim = 0;  // of values; 0: as keys
  DType dtype = DType::f32;

  int64_t value_dim() const { return value_head_dim > 0 ? value_head_dim : head_dim; }
  /// Bytes for `slots` sequences of up to `max_tokens`.
  int64_t bytes(int64_t slots, int64_t max_tokens) const;
};

class KvCache {
 public:
  /// One slot a sequence. Memory is allocated at once and not initialised.
  KvCache(const Context& context, const KvCacheShape& shape, int64_t num_slots, int64_t max_tokens);

  const KvCacheShape& shape() const { return shape_; }
  int64_t num_slots() const { return num_slots_; }
  int64_t max_tokens() const { return max_tokens_; }
  /// [slots, kv_heads, max_tokens, head_dim] and [slots, kv_heads, max_tokens, value_dim]
  Tensor& keys(int64_t layer) { return keys_[static_cast<size_t>(layer)]; }
  Tensor& values(int64_t layer) { return values_[static_cast<size_t>(layer)]; }
  /// Copies the first `tokens` tokens of one slot to another (shared prompts).
  void copy_slot(int64_t from, int64_t to, int64_t tokens) { copy_tokens(from, to, 0, tokens); }
  /// Copies the tokens at [begin, end) of one slot to the same places of another.
  void copy_tokens(int64_t from, int64_t to, int64_t begin, int64_t end);

 private:
  KvCacheShape shape_;
  int64_t num_slots_;
  int64_t max_tokens_;
  std::vector<Tensor> keys_;
  std::vector<Tensor> values_;
};

}  // namespace weft
