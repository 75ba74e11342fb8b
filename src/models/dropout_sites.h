// Where models drop. Each place draws random numbers of its own (RandomKey::site); all are given out here.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weft {

/// Places in a block: what its parts add to the residual stream, and the weights of its attentions.
enum class BlockDropout : uint32_t {
  attention,
  cross_attention,
  feed_forward,
  attention_weights,
  cross_attention_weights,
  count
};

/// Encoder-decoders have two stacks of blocks, all others one, the first.
enum class DropoutStack : uint32_t { first, decoder, count };

inline constexpr uint32_t kDropoutSitesPerStack = 1 << 16;

/// Of a stack's embedded tokens.
constexpr uint32_t embedding_dropout_site(DropoutStack stack = DropoutStack::first) {
  return static_cast<uint32_t>(stack) * kDropoutSitesPerStack;
}

/// Of what a stack gives after its last norm.
constexpr uint32_t output_dropout_site(DropoutStack stack) {
  return embedding_dropout_site(stack) + 1;
}

/// Of a place in a block, which is applied as layer `layer` of its stack, 0 to 10000.
constexpr uint32_t block_dropout_site(int64_t layer, BlockDropout place, DropoutStack stack = DropoutStack::first) {
  return output_dropout_site(stack) + 1 + static_cast<uint32_t>(layer) * static_cast<uint32_t>(BlockDropout::count) +
         static_cast<uint32_t>(place);
}

/// Before the layer that a task puts on an encoder.
inline constexpr uint32_t kTaskDropoutSite = static_cast<uint32_t>(DropoutStack::count) * kDropoutSitesPerStack;

/// Before the dense layer that a classifier has in front of it.
inline constexpr uint32_t kTaskDenseDropoutSite = kTaskDropoutSite + 1;

/// Of the input of an adapter's factors, which are numbered through the model.
constexpr uint32_t adapter_dropout_site(size_t index) {
  return kTaskDenseDropoutSite + 1 + static_cast<uint32_t>(index);
}

}  // namespace weft
