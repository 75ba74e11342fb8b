#include "nn/kv_cache.h"

#include <cstring>

#include "core/error.h"

namespace weft {

int64_t KvCacheShape::bytes(int64_t slots, int64_t max_tokens) const {
  return num_layers * slots * num_kv_heads * max_tokens * (head_dim + value_dim()) *
         static_cast<int64_t>(dtype_bytes(dtype));
}

KvCache::KvCache(const Context& context, const KvCacheShape& shape, int64_t num_slots, int64_t max_tokens)
    : shape_(shape), num_slots_(num_slots), max_tokens_(max_tokens) {
  Shape layer = {num_slots, shape.num_kv_heads, max_tokens, shape.head_dim};
  Shape value_layer = {num_slots, shape.num_kv_heads, max_tokens, shape.value_dim()};
  for (int64_t i = 0; i < shape.num_layers; ++i) {
    keys_.push_back(context.empty(layer, shape.dtype, MemoryTag::kv_cache));
    values_.push_back(context.empty(value_layer, shape.dtype, MemoryTag::kv_cache));
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
      for (int64_t head = 0; head < shape_.num_kv_heads; ++head) {
        std::memcpy(target + static_cast<size_t>(head) * head_bytes,
                    source + static_cast<size_t>(head) * head_bytes,
                    copied_bytes);
      }
    }
  }
}

}  // namespace weft
