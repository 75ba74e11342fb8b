#include "nn/encoder_decoder_layers.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "ops/collective.h"
#include "ops/rope.h"

namespace weft {

Tensor BiasedAttention::forward(Context& context,
                                const Tensor& x,
                                int64_t num_tokens,
                                std::span<const AttentionSpan> spans,
                                const DistanceBias& bias,
                                const Tensor& rope_table,
                                KvCache* cache) const {
  Tensor whole = enter_tensor_parallel(context, x, num_tokens);
  std::vector<Tensor> qkv = column_parallel(context, whole, std::array{&q, &k, &v});
  if (rope_table) {
    for (size_t i : {0, 1}) qkv[i] = rope(context, qkv[i], rope_table, options.head_dim, true);
  }
  Tensor mixed =
      cache == nullptr
          ? attention(context, qkv[0], qkv[1], qkv[2], spans, options, bias)
          : cached_attention(
                context, qkv[0], qkv[1], qkv[2], cache->keys(layer), cache->values(layer), spans, options, bias);
  return row_parallel(context, mixed, o);
}

BiasedAttention::SourceKeys BiasedAttention::project(Context& context, const Tensor& source) const {
  std::vector<Tensor> projected = column_parallel(context, source, std::array{&k, &v});
  return {projected[0], projected[1]};
}

Tensor BiasedAttention::forward_cross(Context& context,
                                      const Tensor& x,
                                      int64_t num_tokens,
                                      std::span<const AttentionSpan> spans,
                                      const DistanceBias& bias,
                                      const SourceKeys& source) const {
  Tensor whole = enter_tensor_parallel(context, x, num_tokens);
  Tensor query = column_parallel(context, whole, std::array{&q})[0];
  return row_parallel(context, attention(context, query, source.keys, source.values, spans, options, bias), o);
}

Tensor BiasedAttention::forward_cached_cross(Context& context,
                                             const Tensor& x,
                                             int64_t num_tokens,
                                             std::span<const AttentionSpan> spans,
                                             const DistanceBias& bias,
                                             KvCache& cache) const {
  Tensor whole = enter_tensor_parallel(context, x, num_tokens);
  Tensor query = column_parallel(context, whole, std::array{&q})[0];
  Tensor mixed = cached_cross_attention(
      context, query, cache.source_keys(layer), cache.source_values(layer), spans, options, bias);
  return row_parallel(context, mixed, o);
}

Tensor OptionallyGatedMlp::forward(Context& context, const Tensor& x, int64_t num_tokens) const {
  Tensor whole = enter_tensor_parallel(context, x, num_tokens);
  if (gate.weight == nullptr) {
    Tensor wide = column_parallel(context, whole, std::array{&up})[0];
    return row_parallel(context, weft::activation(context, wide, activation), down);
  }
  std::vector<Tensor> wide = column_parallel(context, whole, std::array{&gate, &up});
  return row_parallel(context, gated_activation(context, wide[0], wide[1], activation), down);
}

int32_t DistanceBuckets::bucket(int64_t distance) const {
  int64_t buckets = is_bidirectional ? num_buckets / 2 : num_buckets;
  int64_t side = is_bidirectional && distance > 0 ? buckets : 0;
  int64_t away = is_bidirectional ? std::abs(distance) : std::max<int64_t>(-distance, 0);
  int64_t exact = buckets / 2;
  if (away < exact) return static_cast<int32_t>(side + away);
  double ratio = std::log(static_cast<double>(away) / static_cast<double>(exact)) /
                 std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  // Ranges begin where the logarithm is a whole number, which rounding must not miss.
  constexpr double kRounding = 1e-9;
  auto step = static_cast<int64_t>(std::floor(ratio * static_cast<double>(buckets - exact) + kRounding));
  return static_cast<int32_t>(side + std::min(exact + step, buckets - 1));
}

std::vector<int32_t> DistanceBuckets::buckets(int64_t lowest, int64_t highest) const {
  std::vector<int32_t> rows;
  rows.reserve(static_cast<size_t>(highest - lowest + 1));
  for (int64_t distance = lowest; distance <= highest; ++distance) rows.push_back(bucket(distance));
  return rows;
}

}  // namespace weft
