#include "nn/kv_cache.h"

#include <algorithm>

#include "core/error.h"
#include "nn/parameter.h"

namespace weft {

int64_t KvCacheShape::bytes(int64_t slots, int64_t max_tokens, int64_t max_source_tokens) const {
  int64_t tokens = max_tokens + (has_source ? max_source_tokens : 0);
  int64_t total =
      num_layers * slots * num_kv_heads * tokens * (head_dim + value_dim()) * static_cast<int64_t>(dtype_bytes(dtype));
  for (const CacheState& state : states) {
    total += slots * state.shape.num_elements() * static_cast<int64_t>(dtype_bytes(state.dtype));
  }
  return total;
}

KvCache::KvCache(const Context& context,
                 const KvCacheShape& shape,
                 int64_t num_slots,
                 int64_t max_tokens,
                 int64_t num_sources,
                 int64_t max_source_tokens)
    : allocator_(context.allocator),
      shape_(shape),
      num_slots_(num_slots),
      max_tokens_(max_tokens),
      num_sources_(num_sources),
      max_source_tokens_(max_source_tokens) {
  Shape layer = {num_slots, shape.num_kv_heads, max_tokens, shape.head_dim};
  Shape value_layer = {num_slots, shape.num_kv_heads, max_tokens, shape.value_dim()};
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    keys_.push_back(context.empty(layer, shape.dtype, MemoryTag::kv_cache));
    values_.push_back(context.empty(value_layer, shape.dtype, MemoryTag::kv_cache));
    if (!shape.has_source) continue;
    source_keys_.push_back(context.empty(
        {num_sources, shape.num_kv_heads, max_source_tokens, shape.head_dim}, shape.dtype, MemoryTag::kv_cache));
    source_values_.push_back(context.empty(
        {num_sources, shape.num_kv_heads, max_source_tokens, shape.value_dim()}, shape.dtype, MemoryTag::kv_cache));
  }
  for (const CacheState& state : shape.states) {
    const Shape& of = state.shape;
    Shape whole = of.rank() == 1 ? Shape{num_slots, of[0]} : Shape{num_slots, of[0], of[1], of[2]};
    states_.push_back(context.zeros(whole, state.dtype, MemoryTag::kv_cache));
  }
  bool starts_elsewhere = std::any_of(
      shape.states.begin(), shape.states.end(), [](const CacheState& state) { return state.initial != nullptr; });
  for (int64_t slot = 0; starts_elsewhere && slot < num_slots; ++slot) clear_states(slot);
}

void KvCache::clear_states(int64_t slot) {
  for (size_t i = 0; i < states_.size(); ++i) {
    Tensor row = states_[i].slice(slot, slot + 1);
    const Parameter* initial = shape_.states[i].initial;
    if (initial == nullptr || !initial->value.defined()) {
      row.fill_zero();
    } else {
      row.set_values(on_host(initial->value).raw(), initial->value.dtype());
    }
  }
}

void KvCache::copy_slot(int64_t from, int64_t to, int64_t tokens) {
  copy_tokens(from, to, 0, tokens);
  copy_states(from, to);
}

void KvCache::copy_states(int64_t from, int64_t to) {
  for (Tensor& state : states_) {
    Tensor source = state.slice(from, from + 1), target = state.slice(to, to + 1);
    target.copy_from(source);
  }
}

void KvCache::copy_tokens(int64_t from, int64_t to, int64_t begin, int64_t end) {
  WEFT_ASSERT(from < num_slots_ && to < num_slots_ && begin <= end && end <= max_tokens_);
  size_t element = dtype_bytes(shape_.dtype);
  for (std::vector<Tensor>* side : {&keys_, &values_}) {
    int64_t head_dim = side == &keys_ ? shape_.head_dim : shape_.value_dim();
    size_t head_bytes = static_cast<size_t>(max_tokens_ * head_dim) * element;
    size_t skipped_bytes = static_cast<size_t>(begin * head_dim) * element;
    size_t copied_bytes = static_cast<size_t>((end - begin) * head_dim) * element;
    for (Tensor& layer : *side) {
      auto* source = static_cast<std::byte*>(layer.slice(from, from + 1).raw()) + skipped_bytes;
      auto* target = static_cast<std::byte*>(layer.slice(to, to + 1).raw()) + skipped_bytes;
      allocator_->copy_rows(
          target, head_bytes, source, head_bytes, copied_bytes, static_cast<size_t>(shape_.num_kv_heads));
    }
  }
}

}  // namespace weft
