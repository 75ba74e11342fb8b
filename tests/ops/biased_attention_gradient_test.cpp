// Attention with a table of biases by distance and to keys of a source: backward against finite differences, and
// through a cache the same as without.

#include <gtest/gtest.h>

#include "ops/attention.h"
#include "ops/elementwise.h"
#include "support/grad_check.h"

namespace weft {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using Inputs = std::vector<Tensor>;

/// Rows of the distances −4 to 4; they share rows, and row 5 of a table is never read.
const std::vector<int32_t> kRows = {4, 4, 3, 1, 0, 2, 2, 3, 1};
constexpr int64_t kLowest = -4;

class BiasedAttentionGradient : public ::testing::Test {
 protected:
  Tensor random(const Shape& shape, uint64_t seed) { return random_tensor(context_, shape, seed); }
  Context context_ = make_cpu_context(2);
};

TEST_F(BiasedAttentionGradient, distance_bias) {
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 5}, {.begin = 5, .length = 1}, {.begin = 6, .length = 4}};
  for (AttentionMask mask : {AttentionMask{.scale = 0.5f},
                             AttentionMask{.scale = 0.5f, .soft_cap = 2.0f},
                             AttentionMask{.scale = 0.7f, .window = 2},
                             AttentionMask{.scale = 0.5f, .causal = false}}) {
    check_gradients(context_,
                    {random({10, 12}, 1), random({10, 6}, 2), random({10, 6}, 3), random({6, 4}, 4)},
                    [&](Context& context, const Inputs& in) {
                      DistanceBias bias = distance_bias(context, in[3], kRows, kLowest);
                      return attention(context, in[0], in[1], in[2], spans, {.head_dim = 3, .mask = mask}, bias);
                    });
  }
}

/// One table of all layers gets what each gives it.
TEST_F(BiasedAttentionGradient, OfABiasThatLayersShare) {
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 5}, {.begin = 5, .length = 3}};
  check_gradients(context_,
                  {random({8, 6}, 1), random({8, 6}, 2), random({8, 6}, 3), random({6, 2}, 4)},
                  [&](Context& context, const Inputs& in) {
                    DistanceBias bias = distance_bias(context, in[3], kRows, kLowest);
                    AttentionOptions options{.head_dim = 3, .mask = {.scale = 0.5f}};
                    Tensor first = attention(context, in[0], in[1], in[2], spans, options, bias);
                    return attention(context, first, in[1], in[2], spans, options, bias);
                  });
}

std::vector<AttentionSpan> cross_spans() {
  return {{.begin = 0, .length = 5, .key_count = 3, .key_begin = 0},
          {.begin = 5, .length = 1, .key_count = 5, .key_begin = 3},
          {.begin = 6, .length = 2, .key_count = 1, .key_begin = 8}};
}

TEST_F(BiasedAttentionGradient, OfQueriesToASource) {
  AttentionOptions options{.head_dim = 3, .mask = {.scale = 0.5f, .causal = false}};
  for (bool has_bias : {false, true}) {
    Inputs inputs = {random({8, 12}, 1), random({9, 6}, 2), random({9, 6}, 3)};
    if (has_bias) inputs.push_back(random({6, 4}, 4));
    check_gradients(context_, inputs, [&](Context& context, const Inputs& in) {
      DistanceBias bias = has_bias ? distance_bias(context, in[3], kRows, kLowest) : DistanceBias();
      // Backward must not need the caller's spans.
      std::vector<AttentionSpan> given = cross_spans();
      return attention(context, in[0], in[1], in[2], given, options, bias);
    });
  }
}

class CachedBiasedAttention : public BiasedAttentionGradient {
 protected:
  static void expect_rows(const Tensor& actual, const Tensor& expected, int64_t first_row) {
    for (int64_t i = 0; i < actual.num_elements(); ++i) {
      ASSERT_NEAR(actual.data<double>()[i], expected.data<double>()[first_row * expected.size(1) + i], 1e-12)
          << "from row " << first_row << " element " << i;
    }
  }
};

/// The rows piece by piece.
TEST_F(CachedBiasedAttention, EqualsAttentionWithoutACache) {
  Tensor q = random({5, 12}, 1), k = random({5, 6}, 2), v = random({5, 6}, 3), table = random({6, 4}, 4);
  AttentionOptions options{.head_dim = 3, .mask = {.scale = 0.5f}};
  DistanceBias bias = distance_bias(context_, table, kRows, kLowest);
  std::vector<AttentionSpan> whole = {{.begin = 0, .length = 5}};
  Tensor expected = attention(context_, q, k, v, whole, options, bias);
  Tensor key_cache = context_.zeros({2, 2, 7, 3}, DType::f64), value_cache = context_.zeros({2, 2, 7, 3}, DType::f64);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 2}, {2, 4}, {4, 5}}) {
    std::vector<AttentionSpan> part = {{.begin = 0, .length = end - begin, .past = begin, .slot = 1}};
    expect_rows(cached_attention(context_,
                                 q.slice(begin, end),
                                 k.slice(begin, end),
                                 v.slice(begin, end),
                                 key_cache,
                                 value_cache,
                                 part,
                                 options,
                                 bias),
                expected,
                begin);
  }
}

/// Sources lie in slots in another order; queries come piece by piece.
TEST_F(CachedBiasedAttention, OfQueriesToASourceEqualsAttentionWithoutACache) {
  Tensor q = random({8, 12}, 1), k = random({9, 6}, 2), v = random({9, 6}, 3), table = random({6, 4}, 4);
  AttentionOptions options{.head_dim = 3, .mask = {.scale = 0.5f, .causal = false}};
  DistanceBias bias = distance_bias(context_, table, kRows, kLowest);
  std::vector<AttentionSpan> spans = cross_spans();
  Tensor expected = attention(context_, q, k, v, spans, options, bias);
  Tensor keys = context_.zeros({3, 2, 7, 3}, DType::f64), values = context_.zeros({3, 2, 7, 3}, DType::f64);
  std::vector<AttentionSpan> sources;
  for (size_t s = 0; s < spans.size(); ++s) {
    sources.push_back({.begin = spans[s].key_begin, .length = spans[s].key_count, .slot = static_cast<int64_t>(2 - s)});
  }
  write_attention_cache(context_, k, keys, sources);
  write_attention_cache(context_, v, values, sources);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 4}, {4, 5}}) {
    std::vector<AttentionSpan> part = {
        {.begin = 0, .length = end - begin, .past = begin, .slot = 2, .key_count = spans[0].key_count}};
    expect_rows(
        cached_cross_attention(context_, q.slice(begin, end), keys, values, part, options, bias), expected, begin);
  }
  std::vector<AttentionSpan> others = {{.begin = 0, .length = 1, .slot = 1, .key_count = 5},
                                       {.begin = 1, .length = 2, .slot = 0, .key_count = 1}};
  expect_rows(cached_cross_attention(context_, q.slice(5, 8), keys, values, others, options, bias), expected, 5);
}

}  // namespace
}  // namespace weft
