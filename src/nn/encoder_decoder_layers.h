// The parts that encoder-decoders (T5 and its kin) are composed of. Each is data; none knows a family.
//
// Axes: T tokens of a packed batch, H hidden size.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nn/encoder_layers.h"

namespace weft {

/// Attention to the tokens of the sequence itself, or, with keys from elsewhere, to its source; positions are a bias by
/// distance, or rotate queries and keys.
struct BiasedAttention {
  Linear q, k, v, o;
  AttentionOptions options;
  int64_t layer = 0;  // of the cache

  /// x and the result lie outside the tensor-parallel region. With a cache new keys and values are written to it. With
  /// a `rope_table` of the tokens' positions neighbours in queries and keys are rotated.
  Tensor forward(Context& context,
                 const Tensor& x,
                 int64_t num_tokens,
                 std::span<const AttentionSpan> spans,
                 const DistanceBias& bias,
                 const Tensor& rope_table,
                 KvCache* cache) const;
  /// Keys and values of sources, inside the tensor-parallel region as `source` [source tokens, H] is.
  struct SourceKeys {
    Tensor keys, values;
  };
  SourceKeys project(Context& context, const Tensor& source) const;
  /// Attends to them as the spans say.
  Tensor forward_cross(Context& context,
                       const Tensor& x,
                       int64_t num_tokens,
                       std::span<const AttentionSpan> spans,
                       const DistanceBias& bias,
                       const SourceKeys& source) const;
  /// Attends to what the cache holds of the spans' sources.
  Tensor forward_cached_cross(Context& context,
                              const Tensor& x,
                              int64_t num_tokens,
                              std::span<const AttentionSpan> spans,
                              const DistanceBias& bias,
                              KvCache& cache) const;
};

/// down(act(gate) · up), or down(act(up)) where there is no gate.
struct OptionallyGatedMlp {
  Linear gate, up, down;  // gate without a weight: none
  Activation activation = Activation::gelu_tanh;

  Tensor forward(Context& context, const Tensor& x, int64_t num_tokens) const;
};

/// The bucket of a distance position(key) − position(query) (Raffel et al., 2020): half of the buckets for exact
/// distances, the others for logarithmically growing ranges up to max_distance. Bidirectional ones have a half for each
/// side; else keys behind the query are bucket 0.
struct DistanceBuckets {
  int64_t num_buckets = 32;
  int64_t max_distance = 128;
  bool is_bidirectional = true;

  int32_t bucket(int64_t distance) const;
  /// Of the distances from `lowest` to `highest`.
  std::vector<int32_t> buckets(int64_t lowest, int64_t highest) const;
};

}  // namespace weft
