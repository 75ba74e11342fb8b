// Keys and values of past tokens, for all layers of a model.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/context.h"

namespace weft {

struct Parameter;

/// A tensor that a recurrent model keeps for each slot.
struct CacheState {
  Shape shape;
  DType dtype = DType::f32;
  const Parameter* initial = nullptr;  // what a sequence starts from, as many elements; null: zeros
};

/// What a cache is sized by, on this rank.
struct KvCacheShape {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;    // held by this rank
  int64_t head_dim = 0;        // of keys
  int64_t value_head_dim = 0;  // of values; 0: as keys
  DType dtype = DType::f32;
  bool has_source = false;              // of encoder-decoders: keys and values of each sequence's source too
  std::vector<CacheState> states = {};  // of recurrent models

  int64_t value_dim() const { return value_head_dim > 0 ? value_head_dim : head_dim; }
  /// Bytes for `slots` sequences of up to `max_tokens`, with sources of up to `max_source_tokens`.
  int64_t bytes(int64_t slots, int64_t max_tokens, int64_t max_source_tokens = 0) const;
};

class KvCache {
 public:
  /// One slot a sequence, and one a source (beams share theirs). Memory is allocated at once; only states are
  /// initialised, as by clear_states.
  KvCache(const Context& context,
          const KvCacheShape& shape,
          int64_t num_slots,
          int64_t max_tokens,
          int64_t num_sources = 0,
          int64_t max_source_tokens = 0);

  const KvCacheShape& shape() const { return shape_; }
  int64_t num_slots() const { return num_slots_; }
  int64_t max_tokens() const { return max_tokens_; }
  /// [slots, kv_heads, max_tokens, head_dim] and [slots, kv_heads, max_tokens, value_dim]
  Tensor& keys(int64_t layer) { return keys_[static_cast<size_t>(layer)]; }
  Tensor& values(int64_t layer) { return values_[static_cast<size_t>(layer)]; }
  /// The same of sources, [sources, kv_heads, max_source_tokens, head_dim]
  int64_t num_sources() const { return num_sources_; }
  int64_t max_source_tokens() const { return max_source_tokens_; }
  Tensor& source_keys(int64_t layer) { return source_keys_[static_cast<size_t>(layer)]; }
  Tensor& source_values(int64_t layer) { return source_values_[static_cast<size_t>(layer)]; }
  /// [slots, …], as KvCacheShape::states says.
  Tensor& state(int64_t index) { return states_[static_cast<size_t>(index)]; }
  /// Makes a slot's states those of a sequence without tokens: zeros, or what their parameters are now.
  void clear_states(int64_t slot);
  /// Copies the first `tokens` tokens of one slot to another (shared prompts), and states as they are.
  void copy_slot(int64_t from, int64_t to, int64_t tokens);
  /// Copies the tokens at [begin, end) of one slot to the same places of another.
  void copy_tokens(int64_t from, int64_t to, int64_t begin, int64_t end);
  void copy_states(int64_t from, int64_t to);

 private:
  std::shared_ptr<Allocator> allocator_;
  KvCacheShape shape_;
  int64_t num_slots_;
  int64_t max_tokens_;
  int64_t num_sources_;
  int64_t max_source_tokens_;
  std::vector<Tensor> keys_, values_, source_keys_, source_values_, states_;
};

}  // namespace weft
